//! What a crash leaves of what was done to a disk, at any moment of its history.

#[path = "../common/dice.rs"]
mod dice;

pub(crate) use dice::Dice;

use super::{Contents, Event, FileId, MemoryDisk, Naming, PAGE, SECTOR, Tree, pieces};

/// What of the unsynced survives a crash.
pub(crate) enum Survives<'a> {
    Everything,
    Nothing,
    Some(&'a mut Dice),
}

/// What is durable at a moment, moved along the disk's history.
pub(crate) struct History {
    log: Vec<Event>,
    at: usize,
    durable: Tree,
    /// Not durable, in order; without the names.
    pending: Vec<usize>,
    pending_names: Vec<usize>,
}

impl History {
    /// The history of a disk that was empty, or had `start` on it, when it began.
    pub(crate) fn of(disk: &MemoryDisk, start: Tree) -> Self {
        let log = disk.log();
        Self { log, at: 0, durable: start, pending: Vec::new(), pending_names: Vec::new() }
    }

    /// Lets time pass until `moment`, which is not in the past.
    pub(crate) fn advance(&mut self, moment: usize) {
        while self.at < moment {
            match &self.log[self.at] {
                Event::Write { .. } | Event::SetLen { .. } => self.pending.push(self.at),
                Event::Name(_) => self.pending_names.push(self.at),
                Event::Sync(file) => {
                    let file = *file;
                    let (synced, rest) =
                        self.pending.iter().partition(|at| self.log[**at].file() == Some(file));
                    self.pending = rest;
                    let synced: Vec<usize> = synced;
                    self.ensure(file);
                    apply(&self.log, &synced, &mut self.durable, &mut Survives::Everything);
                }
                Event::SyncFailed(file) => {
                    let file = *file;
                    self.pending.retain(|at| self.log[*at].file() != Some(file));
                }
                Event::SyncDirectory => {
                    for at in std::mem::take(&mut self.pending_names) {
                        if let Event::Name(naming) = &self.log[at] {
                            self.durable.name(naming);
                        }
                    }
                }
            }
            self.at += 1;
        }
    }

    /// What a crash at this moment leaves.
    pub(crate) fn crash(&self, mut survives: Survives<'_>) -> Tree {
        let mut tree = self.durable.clone();
        let names = match &mut survives {
            Survives::Everything => self.pending_names.len(),
            Survives::Nothing => 0,
            Survives::Some(random) => random.below(self.pending_names.len() + 1),
        };
        for at in &self.pending_names {
            // A file that has lost its name still has its number.
            if let Event::Name(Naming::Create(_, file)) = &self.log[*at] {
                ensure(&mut tree, *file);
            }
        }
        for at in &self.pending_names[..names] {
            if let Event::Name(naming) = &self.log[*at] {
                tree.name(naming);
            }
        }
        apply(&self.log, &self.pending, &mut tree, &mut survives);
        tree
    }

    fn ensure(&mut self, file: FileId) {
        ensure(&mut self.durable, file);
    }
}

impl Event {
    fn file(&self) -> Option<FileId> {
        match self {
            Self::Write { file, .. } | Self::SetLen { file, .. } => Some(*file),
            _ => None,
        }
    }
}

fn ensure(tree: &mut Tree, file: FileId) {
    if tree.files.len() <= file {
        tree.files.resize(file + 1, Contents::default());
    }
}

/// What becomes of a page that was not synced.
#[derive(PartialEq, Eq)]
enum Fate {
    Whole,
    /// Some of its sectors are written.
    Torn,
    Lost,
}

impl Fate {
    fn random(random: &mut Dice, odds: u64) -> Self {
        match random.next() % 8 {
            0 => Self::Torn,
            dice if dice <= odds => Self::Whole,
            _ => Self::Lost,
        }
    }
}

/// Applies writes and lengths, as far as they survive.
fn apply(log: &[Event], pending: &[usize], tree: &mut Tree, survives: &mut Survives<'_>) {
    // The odds differ from state to state: mostly lost, mostly there, half and half.
    let odds = match survives {
        Survives::Some(random) => 1 + random.next() % 7,
        _ => 0,
    };
    let mut length_lost = false;
    for at in pending {
        match &log[*at] {
            Event::SetLen { file, len } => {
                let survived = match survives {
                    Survives::Everything => true,
                    Survives::Nothing => false,
                    Survives::Some(random) => !length_lost && random.chance(odds, 8),
                };
                length_lost |= !survived;
                if survived {
                    tree.files[*file].set_len(*len);
                }
            }
            Event::Write { file, offset, data } => {
                for (offset, page) in pieces(*offset, data, PAGE) {
                    let fate = match survives {
                        Survives::Everything => Fate::Whole,
                        Survives::Nothing => Fate::Lost,
                        Survives::Some(random) => Fate::random(random, odds),
                    };
                    if fate == Fate::Lost {
                        continue;
                    }
                    for (offset, sector) in pieces(offset, page, SECTOR) {
                        let kept = match survives {
                            Survives::Some(random) => fate == Fate::Whole || random.chance(1, 2),
                            _ => true,
                        };
                        if kept && offset + sector.len() <= tree.files[*file].len {
                            tree.files[*file].write(offset, sector);
                        }
                    }
                }
            }
            _ => {}
        }
    }
}
