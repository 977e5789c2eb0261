//! A directory beside the volume that must stay out of all this: every access to it is noticed.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

pub(crate) struct Outside {
    pub(crate) path: PathBuf,
    events: OwnedFd,
}

impl Outside {
    /// A directory with a file `secret` and whatever `fill` puts there.
    pub(crate) fn new(path: PathBuf, fill: impl FnOnce(&Path)) -> Self {
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("secret"), [b'x'; 5_000]).unwrap();
        fill(&path);
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let all = WatchFlags::ALL_EVENTS;
        inotify::add_watch(&events, &path, all).unwrap();
        Self { path, events }
    }

    /// Whether anybody listed, opened, read or changed something there.
    pub(crate) fn was_touched(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4_096];
        inotify::Reader::new(&self.events, &mut buffer)
            .next()
            .is_ok_and(|event| !event.events().contains(ReadFlags::IGNORED))
    }
}
