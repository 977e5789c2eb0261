//! A proxy that does not answer holds up its own keys alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kmsfs::kms::api::KeyRequest;
use kmsfs::kms::{ErrorKind, KeyState};

use super::xks_proxy::Mood;
use super::{World, context, named, of};

#[test]
fn other_keys_are_used_and_managed_as_ever() {
    let (world, store, key) = World::with_key();
    let plain = world.plain_key();
    let blob = world.encrypt(&key, b"secret").unwrap();
    world.proxy.feel(Mood::Silent);
    let ended = AtomicBool::new(false);
    let mut longest = Duration::ZERO;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    assert!(world.decrypt(&blob).is_err());
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
        let timed = |longest: &mut Duration, work: &dyn Fn()| {
            let start = Instant::now();
            work();
            *longest = (*longest).max(start.elapsed());
        };
        for _ in 0..100 {
            timed(&mut longest, &|| {
                let made = world.service().generate_data_key(&world.caller, &plain.arn, &context()).unwrap();
                world.service().decrypt_data_key(&world.caller, &made.blob, &context()).unwrap();
            });
            timed(&mut longest, &|| drop(world.plain_key()));
            thread::sleep(Duration::from_millis(10));
        }
        timed(&mut longest, &|| drop(world.service().disable_key(&world.caller, &named(&plain)).unwrap()));
        // Its own custom key store, too, is described and disconnected at once.
        timed(&mut longest, &|| assert_eq!(world.described(&store).connection_state.name(), "CONNECTED"));
        timed(&mut longest, &|| world.disconnect(&store));
        ended.store(true, Ordering::Relaxed);
    });
    assert!(longest < Duration::from_millis(500), "{longest:?}");
}

#[test]
fn what_is_on_its_way_when_a_key_is_taken_away_is_not_answered() {
    let (world, store, key) = World::with_key();
    let other = world.key(&store, "two").unwrap();
    let (blob, kept) = (world.encrypt(&key, b"secret").unwrap(), world.encrypt(&other, b"secret").unwrap());
    world.proxy.feel(Mood::Slow(Duration::from_millis(400)));
    let in_the_middle = |work: &(dyn Fn() + Sync), take_away: &dyn Fn()| {
        thread::scope(|scope| {
            let working = scope.spawn(work);
            thread::sleep(Duration::from_millis(150));
            take_away();
            working.join().unwrap();
        });
    };
    in_the_middle(&|| assert_eq!(world.decrypt(&blob).unwrap_err().kind(), ErrorKind::Disabled), &|| {
        drop(world.service().disable_key(&world.caller, &named(&key)).unwrap());
    });
    in_the_middle(
        &|| {
            let error = world.decrypt(&kept).unwrap_err();
            assert_eq!(
                (error.kind(), error.key_state()),
                (ErrorKind::InvalidState, Some(KeyState::Unavailable))
            );
        },
        &|| world.disconnect(&store),
    );
}

#[test]
fn a_connection_that_is_being_made_can_be_ended() {
    let world = World::new();
    let store = world.create(&world.request("near")).unwrap();
    world.proxy.feel(Mood::Slow(Duration::from_millis(500)));
    thread::scope(|scope| {
        let connecting = scope.spawn(|| world.service().connect_custom_key_store(&world.caller, &of(&store)));
        thread::sleep(Duration::from_millis(150));
        assert_eq!(world.described(&store).connection_state.name(), "CONNECTING");
        let start = Instant::now();
        world.disconnect(&store);
        assert!(start.elapsed() < Duration::from_millis(250));
        connecting.join().unwrap().unwrap();
    });
    assert_eq!(world.described(&store).connection_state.name(), "DISCONNECTED");
    let nothing = KeyRequest { key_id: "alias/nothing".to_owned() };
    assert!(world.service().describe_key(&world.caller, &nothing).is_err());
}

#[test]
fn many_callers_share_a_proxy() {
    let (world, _, key) = World::with_key();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let blob = world.encrypt(&key, b"secret").unwrap();
                    assert_eq!(&*world.decrypt(&blob).unwrap().plaintext, b"secret");
                }
            });
        }
    });
    // Not one for each of the 800 calls.
    assert!(world.proxy.accepted() < 400, "{} connections", world.proxy.accepted());
}
