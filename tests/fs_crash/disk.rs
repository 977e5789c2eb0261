//! A disk that remembers what was done to it, and what a crash can leave of that.
//!
//! Assumed is what `docs/FORMAT.md` assumes: of the pages written and holes punched since a file's
//! last flush any subset may be lost, in any order; changes of one file's length reach the disk in
//! order; so do all changes of names and attributes, and a flush takes those along that its file or
//! directory had a part in.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use crate::workload::Watch;
use kmsfs::fs::disk::{Call, Probe};
use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};

const PAGE: usize = 4096;

/// An inode, by the order in which they were made. The volume's root is the first.
pub(crate) type Node = usize;
pub(crate) const ROOT: Node = 0;

/// Something done to the disk.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A change of names or attributes.
    Meta(Meta),
    /// Of one page at most.
    Write {
        node: Node,
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLength {
        node: Node,
        len: u64,
    },
    Punch {
        node: Node,
        offset: u64,
        len: u64,
    },
    Sync(Node),
    SyncAll,
}

#[derive(Debug, Clone)]
pub(crate) enum Meta {
    Make { dir: Node, name: String, node: Node, kind: Kind },
    Link { dir: Node, name: String, node: Node },
    Remove { dir: Node, name: String },
    Rename { dir: Node, name: String, new_dir: Node, new_name: String, exchange: bool },
    SetXattr { node: Node, name: Vec<u8>, value: Vec<u8> },
    RemoveXattr { node: Node, name: Vec<u8> },
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink(String),
}

/// Names and attributes, as a sequence of changes leaves them.
#[derive(Default)]
struct Tree {
    entries: HashMap<Node, BTreeMap<String, Node>>,
    kinds: HashMap<Node, Kind>,
    xattrs: HashMap<Node, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Tree {
    fn apply(&mut self, change: &Meta) {
        match change {
            Meta::Make { dir, name, node, kind } => {
                self.kinds.insert(*node, kind.clone());
                self.dir(*dir).insert(name.clone(), *node);
            }
            Meta::Link { dir, name, node } => {
                self.dir(*dir).insert(name.clone(), *node);
            }
            Meta::Remove { dir, name } => {
                self.dir(*dir).remove(name);
            }
            Meta::Rename { dir, name, new_dir, new_name, exchange } => {
                let moved = self.dir(*dir).remove(name).unwrap();
                let replaced = self.dir(*new_dir).insert(new_name.clone(), moved);
                if let (Some(replaced), true) = (replaced, exchange) {
                    self.dir(*dir).insert(name.clone(), replaced);
                }
            }
            Meta::SetXattr { node, name, value } => {
                self.xattrs.entry(*node).or_default().insert(name.clone(), value.clone());
            }
            Meta::RemoveXattr { node, name } => {
                self.xattrs.entry(*node).or_default().remove(name);
            }
        }
    }

    fn dir(&mut self, node: Node) -> &mut BTreeMap<String, Node> {
        self.entries.entry(node).or_default()
    }
}

/// Sees every call to the disk, and remembers those that change it.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Record>);

#[derive(Default)]
struct Record {
    log: Vec<Event>,
    tree: Tree,
    nodes: HashMap<u64, Node>,
    made: Node,
}

impl Recorder {
    /// Watches a volume from before it is created in the directory `root`.
    pub(crate) fn new(root: &Path) -> Self {
        let recorder = Self::default();
        let mut record = recorder.0.lock().unwrap();
        record.nodes.insert(rustix::fs::stat(root).unwrap().st_ino, ROOT);
        record.made = ROOT + 1;
        drop(record);
        recorder
    }

    pub(crate) fn log(&self) -> Vec<Event> {
        self.0.lock().unwrap().log.clone()
    }
}

impl Watch for Recorder {
    fn position(&self) -> usize {
        self.0.lock().unwrap().log.len()
    }

    fn node_of(&self, ino: u64) -> Node {
        self.0.lock().unwrap().nodes[&ino]
    }
}

impl Probe for Recorder {
    fn before(&self, _: &Call<'_>) -> rustix::io::Result<()> {
        Ok(())
    }

    fn after(&self, call: &Call<'_>) {
        self.0.lock().unwrap().note(call);
    }
}

impl Record {
    fn note(&mut self, call: &Call<'_>) {
        match *call {
            Call::Create { dir, name } => self.make(dir, name, Kind::File),
            Call::MakeDir { dir, name } => self.make(dir, name, Kind::Directory),
            Call::Symlink { target, dir, name } => self.make(dir, name, Kind::Symlink(target.to_owned())),
            Call::MakeNode { .. } => unreachable!("no node is made here"),
            Call::Link { file, dir, name } => {
                let (dir, name) = self.place(dir, name);
                let node = self.node(file);
                self.meta(Meta::Link { dir, name, node });
            }
            Call::Unlink { dir, name } | Call::RemoveDir { dir, name } => {
                let (dir, name) = self.place(dir, name);
                self.meta(Meta::Remove { dir, name });
            }
            Call::Rename { dir, name, new_dir, new_name, exchange } => {
                let ((dir, name), (new_dir, new_name)) =
                    (self.place(dir, name), self.place(new_dir, new_name));
                self.meta(Meta::Rename { dir, name, new_dir, new_name, exchange });
            }
            Call::SetXattr { file, name, value } => {
                let node = self.node(file);
                self.meta(Meta::SetXattr { node, name: name.to_vec(), value: value.to_vec() });
            }
            Call::RemoveXattr { file, name } => {
                let node = self.node(file);
                self.meta(Meta::RemoveXattr { node, name: name.to_vec() });
            }
            Call::Write { file, offset, data } => self.write(file, offset, data),
            Call::SetLength { file, len } => {
                let node = self.node(file);
                self.log.push(Event::SetLength { node, len });
            }
            Call::Punch { file, offset, len } => {
                let node = self.node(file);
                self.log.push(Event::Punch { node, offset, len });
            }
            Call::Sync { file, .. } => {
                let node = self.node(file);
                self.log.push(Event::Sync(node));
            }
            Call::SyncAll { .. } => self.log.push(Event::SyncAll),
            _ => {}
        }
    }

    fn make(&mut self, dir: BorrowedFd<'_>, name: &str, kind: Kind) {
        let ino = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).unwrap().st_ino;
        let (dir, name) = self.place(dir, name);
        // Opening for writing is a creation only where nothing was.
        if self.tree.dir(dir).contains_key(&name) {
            return;
        }
        let node = self.made;
        self.made += 1;
        self.nodes.insert(ino, node);
        self.meta(Meta::Make { dir, name, node, kind });
    }

    fn meta(&mut self, change: Meta) {
        self.tree.apply(&change);
        self.log.push(Event::Meta(change));
    }

    fn write(&mut self, file: BorrowedFd<'_>, offset: u64, data: &[u8]) {
        let node = self.node(file);
        let mut at = 0;
        while at < data.len() {
            let start = offset + at as u64;
            let len = (PAGE - start as usize % PAGE).min(data.len() - at);
            self.log.push(Event::Write { node, offset: start, bytes: data[at..at + len].to_vec() });
            at += len;
        }
    }

    fn node(&self, file: BorrowedFd<'_>) -> Node {
        self.nodes[&rustix::fs::fstat(file).unwrap().st_ino]
    }

    /// The directory and last part of a path below `dir`.
    fn place(&mut self, dir: BorrowedFd<'_>, name: &str) -> (Node, String) {
        let mut dir = self.node(dir);
        let mut parts: Vec<&str> = name.split('/').collect();
        let last = parts.pop().unwrap();
        for part in parts {
            dir = self.tree.dir(dir)[part];
        }
        (dir, last.to_owned())
    }
}

/// What a crash leaves.
pub(crate) struct Crash {
    /// Index in the log behind the last change of names and attributes that is there.
    pub(crate) names: usize,
    tree: Tree,
    contents: HashMap<Node, Vec<u8>>,
}

impl Crash {
    /// The disk after a crash at `log[at]`. `choose(n)` is a random number below `n`.
    pub(crate) fn at(log: &[Event], at: usize, choose: &mut dyn FnMut(usize) -> usize) -> Self {
        let log = &log[..at];
        let least = log.iter().rposition(|event| matches!(event, Event::SyncAll)).map_or(0, |i| i + 1);
        let least = log.iter().enumerate().fold(least, |least, (index, event)| match event {
            Event::Sync(node) => least.max(last_part(&log[..index], *node)),
            _ => least,
        });
        // More often than not, hardly anything or nearly everything is lost.
        let names = match choose(4) {
            0 => least,
            1 => at,
            _ => least + choose(at - least + 1),
        };
        let mut tree = Tree::default();
        for event in &log[..names] {
            if let Event::Meta(change) = event {
                tree.apply(change);
            }
        }
        let mut files: HashMap<Node, Vec<(usize, &Event)>> = HashMap::new();
        for (index, event) in log.iter().enumerate() {
            match event {
                Event::Write { node, .. } | Event::SetLength { node, .. } | Event::Punch { node, .. } => {
                    files.entry(*node).or_default().push((index, event));
                }
                _ => {}
            }
        }
        let contents = files.into_iter().map(|(node, events)| {
            let is_flush = |event: &Event| match event {
                Event::Sync(synced) => *synced == node,
                Event::SyncAll => true,
                _ => false,
            };
            let flushed = log.iter().rposition(is_flush).unwrap_or(0);
            let odds = choose(9);
            (node, replay(&events, |index| index < flushed || choose(8) < odds))
        });
        let contents = contents.collect();
        Self { names, tree, contents }
    }

    /// Lays it out in an empty directory.
    pub(crate) fn lay_out(&self, root: &Path) {
        let mut places: HashMap<Node, std::path::PathBuf> = HashMap::new();
        let mut below = vec![(ROOT, root.to_owned())];
        while let Some((dir, path)) = below.pop() {
            self.set_xattrs(dir, &path);
            for (name, &node) in self.tree.entries.get(&dir).into_iter().flatten() {
                let place = path.join(name);
                match &self.tree.kinds[&node] {
                    Kind::Directory => {
                        fs::create_dir(&place).unwrap();
                        below.push((node, place));
                        continue;
                    }
                    _ if places.contains_key(&node) => {
                        rustix::fs::linkat(
                            rustix::fs::CWD,
                            &places[&node],
                            rustix::fs::CWD,
                            &place,
                            AtFlags::empty(),
                        )
                        .unwrap();
                        continue;
                    }
                    Kind::Symlink(target) => rustix::fs::symlink(target, &place).unwrap(),
                    Kind::File => self.lay_out_file(node, &place),
                }
                places.insert(node, place);
            }
        }
    }

    fn lay_out_file(&self, node: Node, place: &Path) {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, place, FileType::RegularFile, mode, 0).unwrap();
        let file = File::options().write(true).open(place).unwrap();
        let contents = self.contents.get(&node).map_or(&[][..], Vec::as_slice);
        file.set_len(contents.len() as u64).unwrap();
        for (index, page) in contents.chunks(PAGE).enumerate() {
            // Zeros may be a hole.
            if page.iter().any(|&b| b != 0) {
                file.write_all_at(page, (index * PAGE) as u64).unwrap();
            }
        }
        self.set_xattrs(node, place);
    }

    fn set_xattrs(&self, node: Node, place: &Path) {
        for (name, value) in self.tree.xattrs.get(&node).into_iter().flatten() {
            rustix::fs::setxattr(place, name.as_slice(), value, XattrFlags::empty()).unwrap();
        }
    }
}

/// Index behind the last change of names and attributes that an inode had a part in.
fn last_part(log: &[Event], inode: Node) -> usize {
    let has_part = |event: &Event| match event {
        Event::Meta(Meta::Make { dir, node, .. } | Meta::Link { dir, node, .. }) => {
            *dir == inode || *node == inode
        }
        Event::Meta(Meta::Remove { dir, .. }) => *dir == inode,
        Event::Meta(Meta::Rename { dir, new_dir, .. }) => *dir == inode || *new_dir == inode,
        Event::Meta(Meta::SetXattr { node, .. } | Meta::RemoveXattr { node, .. }) => *node == inode,
        _ => false,
    };
    log.iter().rposition(has_part).map_or(0, |index| index + 1)
}

/// A file's contents when of the changes only those persist that `persists` says.
fn replay(events: &[(usize, &Event)], mut persists: impl FnMut(usize) -> bool) -> Vec<u8> {
    let mut disk: Vec<u8> = Vec::new();
    // Once a change of the length is lost, so are the later ones.
    let mut length_lost = false;
    for (index, event) in events {
        let is_length = matches!(event, Event::SetLength { .. });
        if !persists(*index) || (is_length && length_lost) {
            length_lost |= is_length;
            continue;
        }
        match event {
            Event::Write { offset, bytes, .. } => {
                let end = *offset as usize + bytes.len();
                if end > disk.len() {
                    // A page's data without the length that was set before it, or a write that
                    // makes the file longer by itself.
                    if length_lost || *offset as usize > disk.len() {
                        continue;
                    }
                    disk.resize(end, 0);
                }
                disk[*offset as usize..end].copy_from_slice(bytes);
            }
            Event::SetLength { len, .. } => disk.resize(*len as usize, 0),
            Event::Punch { offset, len, .. } => {
                let end = ((offset + len) as usize).min(disk.len());
                if let Some(range) = disk.get_mut(*offset as usize..end) {
                    range.fill(0);
                }
            }
            _ => {}
        }
    }
    disk
}
