//! What the audit log costs: an event by itself, and within a call for a data key.
//!
//! Calls come in bursts that the queue has room for, and between them it is emptied unmeasured: so it
//! is the caller that is measured. "sustained" is the writer.
//!
//! ```sh
//! cargo bench --bench audit
//! ```
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use kmsfs::clock::SystemClock;
use kmsfs::kms::api::CreateKeyRequest;
use kmsfs::kms::audit::{
    AuditLog, Category, Event, EventIds, Head, Identity, Limits, Mode, Origin, Owner, Parameter, Setup,
};
use kmsfs::kms::{
    Caller, Costs, EncryptionContext, Realm, Service, StoreId, StoreOptions, SystemDisk, UnlockSecret,
};
use kmsfs::secret::{Key, Passphrase};

fn context() -> EncryptionContext {
    EncryptionContext::new()
        .with("kmsfs:volume", "59f90ff2-2635-45b5-3e14-102d99d8a251")
        .with("kmsfs:file", "15522386-accf-1a64-1ffc-1aef23263d38")
}

fn event<'a>(realm: &'a Realm, ids: &EventIds, parameters: &'a [(&'a str, Parameter<'a>)]) -> Event<'a> {
    Event {
        time: Timestamp::now(),
        name: "GenerateDataKey",
        origin: Origin::Call(Identity {
            kind: "Root",
            arn: Some("arn:aws:iam::000000000000:root"),
            user: None,
            access_key: None,
            process: Some((1000, 1000, 4711)),
            address: None,
            agent: "kmsfs",
        }),
        category: Category::Data,
        read_only: true,
        realm,
        parameters,
        response: &[],
        resources: &["arn:aws:kms:local:000000000000:key/04eb2118-6bc5-4196-b96d-fb7f8999317b"],
        error: None,
        additional: &[],
        id: ids.next(),
    }
}

fn log_in(dir: &Path) -> AuditLog {
    let setup = Setup {
        disk: Arc::new(SystemDisk),
        dir: dir.to_owned(),
        owner: Owner { store: StoreId::from_bytes([1; 16]), realm: Realm::default() },
        key: Arc::new(Key::random().unwrap()),
        limits: Limits::default(),
        ids: Arc::new(EventIds::random().unwrap()),
    };
    AuditLog::start(setup, Head::START, Mode::Required, Arc::new(SystemClock)).unwrap()
}

/// Calls in a burst: with 1 KiB each far from what the queue holds.
const BURST: u64 = 1000;

/// The time that `count` calls take, without what comes between bursts.
fn bursts(count: u64, call: impl Fn(), between: impl Fn()) -> Duration {
    let (mut left, mut taken) = (count, Duration::ZERO);
    while left > 0 {
        let now = left.min(BURST);
        let start = Instant::now();
        (0..now).for_each(|_| call());
        taken += start.elapsed();
        between();
        left -= now;
    }
    taken
}

fn events(c: &mut Criterion) {
    let (realm, ids, context) = (Realm::default(), EventIds::random().unwrap(), context());
    let parameters = [
        ("KeyId", Parameter::Text("alias/default")),
        ("KeySpec", Parameter::Text("AES_256")),
        ("EncryptionContext", Parameter::Context(&context)),
    ];
    let mut group = c.benchmark_group("audit");
    group.throughput(Throughput::Elements(1));
    group.bench_function("format", |b| b.iter(|| event(&realm, &ids, &parameters).to_json()));
    let dir = tempfile::tempdir().unwrap();
    let log = log_in(dir.path());
    let text = event(&realm, &ids, &parameters).to_json();
    group.bench_function("enqueue", |b| {
        b.iter_custom(|n| bursts(n, || log.place().unwrap().fill(text.clone()), || log.flush().unwrap()));
    });
    group.bench_function("format and enqueue", |b| {
        let log_one = || log.place().unwrap().fill(event(&realm, &ids, &parameters).to_json());
        b.iter_custom(|n| bursts(n, log_one, || log.flush().unwrap()));
    });
    group.bench_function("sustained", |b| b.iter(|| log.place().unwrap().fill(text.clone())));
    group.bench_function("durable", |b| {
        b.iter(|| log.place().unwrap().fill_durably(text.clone()).unwrap());
    });
    group.finish();
}

fn data_keys(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let secret = UnlockSecret::KeyFile(Passphrase::new(vec![7; 32]));
    let options =
        StoreOptions { costs: Costs { memory_kib: 32, passes: 1, lanes: 1 }, ..StoreOptions::default() };
    let service = Service::create(dir.path(), &secret, &options, Arc::new(SystemClock)).unwrap();
    let (caller, context) = (Caller::current(), context());
    let key = service.create_key(&caller, &CreateKeyRequest::default()).unwrap().key_id.to_string();
    let made = service.generate_data_key(&caller, &key, &context).unwrap();
    let mut group = c.benchmark_group("service");
    group.throughput(Throughput::Elements(1));
    group.bench_function("GenerateDataKey", |b| {
        let generate = || drop(service.generate_data_key(&caller, &key, &context).unwrap());
        b.iter_custom(|n| bursts(n, generate, || service.flush_audit().unwrap()));
    });
    group.bench_function("Decrypt", |b| {
        let decrypt = || drop(service.decrypt_data_key(&caller, &made.blob, &context).unwrap());
        b.iter_custom(|n| bursts(n, decrypt, || service.flush_audit().unwrap()));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1))
        .sample_size(30);
    targets = events, data_keys
}
criterion_main!(benches);
