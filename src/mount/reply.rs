//! Results of operations as FUSE replies.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fuser::{Errno, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyXattr};

use super::convert::{ABSENT, to_fuse};
use super::gate;
use crate::fs::{Attr, FsResult};

/// How long the kernel may keep what it was told: nobody else changes the volume.
pub(super) const TTL: Duration = Duration::from_secs(3600);
/// Inode numbers are never reused while the kernel knows them.
pub(super) const GENERATION: Generation = Generation(0);

/// What an operation came to; an error of its own if there is no mount any more, or if it panicked.
pub(super) type Done<T> = Result<FsResult<T>, Errno>;

/// Runs an operation; a panic in it, which is a bug, is an error of this one request.
pub(super) fn run<T>(operation: impl FnOnce() -> FsResult<T>) -> Result<T, Errno> {
    finish(run_raw(AssertUnwindSafe(operation)))
}

/// As [`run`], with the filesystem's own error.
pub(super) fn run_raw<T>(operation: AssertUnwindSafe<impl FnOnce() -> FsResult<T>>) -> Done<T> {
    let _entered = gate::enter().ok_or(Errno::ENOTCONN)?;
    catch_unwind(operation).map_err(|_| {
        tracing::error!("a request failed unexpectedly; please report this");
        Errno::EIO
    })
}

/// What the kernel is told.
pub(super) fn finish<T>(done: Done<T>) -> Result<T, Errno> {
    done?.map_err(|error| {
        tracing::debug!("{error}");
        Errno::from_i32(error.errno())
    })
}

pub(super) fn empty(reply: ReplyEmpty, operation: impl FnOnce() -> FsResult<()>) {
    answer_empty(reply, run(operation));
}

pub(super) fn answer_empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn entry(reply: ReplyEntry, operation: impl FnOnce() -> FsResult<Attr>) {
    answer_entry(reply, run(operation));
}

/// As [`entry`], for a look-up. That there is no such entry is kept too.
pub(super) fn found(reply: ReplyEntry, operation: impl FnOnce() -> FsResult<Attr>) {
    match run(operation) {
        Err(Errno::ENOENT) => reply.entry(&TTL, &ABSENT, GENERATION),
        done => answer_entry(reply, done),
    }
}

pub(super) fn answer_entry(reply: ReplyEntry, done: Result<Attr, Errno>) {
    match done {
        Ok(attr) => reply.entry(&TTL, &to_fuse(&attr), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn attr(reply: ReplyAttr, operation: impl FnOnce() -> FsResult<Attr>) {
    answer_attr(reply, run(operation));
}

pub(super) fn answer_attr(reply: ReplyAttr, done: Result<Attr, Errno>) {
    match done {
        Ok(attr) => reply.attr(&TTL, &to_fuse(&attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn xattr(reply: ReplyXattr, size: u32, operation: impl FnOnce() -> FsResult<Vec<u8>>) {
    answer_xattr(reply, size, run(operation));
}

pub(super) fn answer_xattr(reply: ReplyXattr, size: u32, done: Result<Vec<u8>, Errno>) {
    match done {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}

/// Ends a listing when the reply is full.
pub(super) fn break_if(full: bool) -> ControlFlow<()> {
    if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

pub(super) fn lseek(reply: ReplyLseek, operation: impl FnOnce() -> FsResult<u64>) {
    match run(operation) {
        Ok(offset) => reply.offset(offset.cast_signed()),
        Err(errno) => reply.error(errno),
    }
}
