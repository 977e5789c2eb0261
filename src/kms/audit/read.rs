//! Reading the log as text, while it may be written: no key is needed, and nothing is checked.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chain::Line;
use super::segment::{file_name, first_line};

/// The lines of a log, from a place on. At the end it can be asked again later.
#[derive(Debug)]
pub struct Events {
    dir: PathBuf,
    /// Number of the last line that was read.
    last: u64,
    current: Option<Current>,
    /// Lines that are none.
    broken: u64,
}

#[derive(Debug)]
struct Current {
    first: u64,
    inode: u64,
    reader: BufReader<File>,
}

impl Events {
    /// The lines of the log in `dir` that come after the line `last`.
    pub fn after(dir: &Path, last: u64) -> Self {
        Self { dir: dir.to_owned(), last, current: None, broken: 0 }
    }

    /// Number of lines that were passed over because they are none.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn next_event(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(event) = self.next_here()? {
                return Ok(Some(event));
            }
            if !self.go_on()? {
                return Ok(None);
            }
        }
    }

    fn next_here(&mut self) -> io::Result<Option<Value>> {
        let Some(current) = &mut self.current else { return Ok(None) };
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = current.reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                // Not all of it is written yet.
                current.reader.seek(SeekFrom::Current(-(read as i64)))?;
                return Ok(None);
            }
            let sequence = Line::parse(&line).map(|line| line.sequence);
            match (sequence, serde_json::from_slice(&line)) {
                (Some(sequence), _) if sequence <= self.last => {}
                (Some(sequence), Ok(event)) => {
                    self.last = sequence;
                    return Ok(Some(event));
                }
                _ => self.broken += 1,
            }
        }
    }

    /// Opens the file in which the next line must be; answers false if that is the one that is
    /// open.
    fn go_on(&mut self) -> io::Result<bool> {
        let names = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            names => names?,
        };
        let mut firsts = Vec::new();
        for name in names {
            firsts.extend(first_line(&name?.file_name().to_string_lossy()));
        }
        firsts.sort_unstable();
        let holds_next = firsts.iter().copied().rfind(|first| *first <= self.last.saturating_add(1));
        let open = self.current.as_ref().map(|current| (current.first, current.inode));
        let mut wanted = holds_next.or(firsts.first().copied());
        if let (Some(first), Some((open_first, inode))) = (wanted, open)
            && first == open_first
            && self.inode(first)? == Some(inode)
        {
            // It has been read to its end; lines between it and the next may be gone.
            wanted = firsts.into_iter().find(|first| *first > open_first);
        }
        let Some(first) = wanted else { return Ok(false) };
        let file = File::open(self.dir.join(file_name(first)))?;
        let inode = file.metadata()?.ino();
        self.current = Some(Current { first, inode, reader: BufReader::new(file) });
        Ok(true)
    }

    /// A segment is replaced by a new file after a failure.
    fn inode(&self, first: u64) -> io::Result<Option<u64>> {
        match fs::metadata(self.dir.join(file_name(first))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok(Some(found?.ino())),
        }
    }
}
