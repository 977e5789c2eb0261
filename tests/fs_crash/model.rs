//! What was done to a volume, as its user sees it: after every operation the names and attributes,
//! and every file's contents so far.

use std::collections::BTreeMap;

pub(crate) type File = usize;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    File(File),
    Directory,
    Symlink(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) what: What,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Names and attributes at one time, by path from the root, without the root.
pub(crate) type Names = BTreeMap<String, Entry>;

/// All that was done so far. Positions are in the disk's log.
pub(crate) struct Model {
    /// Each with the position at which it was complete.
    states: Vec<(usize, Names)>,
    files: Vec<Contents>,
}

/// One file's contents over time.
pub(crate) struct Contents {
    pub(crate) node: crate::disk::Node,
    /// Each with the position at which it was complete.
    pub(crate) versions: Vec<(usize, Vec<u8>)>,
}

impl Model {
    pub(crate) fn new(at: usize) -> Self {
        Self { states: vec![(at, Names::new())], files: Vec::new() }
    }

    pub(crate) fn begin(&self) -> usize {
        self.states[0].0
    }

    pub(crate) fn names(&self) -> &Names {
        &self.states.last().unwrap().1
    }

    /// Notes what an operation that is complete at `at` made of the names.
    pub(crate) fn set_names(&mut self, at: usize, names: Names) {
        self.states.push((at, names));
    }

    /// Notes a new file, which is empty.
    pub(crate) fn add_file(&mut self, at: usize, node: crate::disk::Node) -> File {
        self.files.push(Contents { node, versions: vec![(at, Vec::new())] });
        self.files.len() - 1
    }

    pub(crate) fn contents(&self, file: File) -> &[u8] {
        &self.files[file].versions.last().unwrap().1
    }

    pub(crate) fn set_contents(&mut self, at: usize, file: File, contents: Vec<u8>) {
        self.files[file].versions.push((at, contents));
    }

    pub(crate) fn file(&self, file: File) -> &Contents {
        &self.files[file]
    }

    /// The names that may be seen where the disk's changes of names end at `at`: those from before
    /// the operation that was under way, and those from after it.
    pub(crate) fn possible_names(&self, at: usize) -> &[(usize, Names)] {
        let last = self.states.iter().rposition(|(complete, _)| *complete <= at).unwrap_or(0);
        &self.states[last..(last + 2).min(self.states.len())]
    }
}

impl Contents {
    /// The contents that may be seen after a crash at `at`, when all up to `flushed` was flushed:
    /// from the last that was complete at the flush to the first that was complete at the crash.
    pub(crate) fn possible(&self, flushed: usize, at: usize) -> Vec<&Vec<u8>> {
        let first = self.versions.iter().rposition(|(complete, _)| *complete <= flushed).unwrap_or(0);
        let last = self.versions.iter().position(|(complete, _)| *complete >= at);
        let last = last.unwrap_or(self.versions.len() - 1).max(first);
        self.versions[first..=last].iter().map(|(_, contents)| contents).collect()
    }
}
