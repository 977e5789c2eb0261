//! Results of operations as FUSE replies.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fuser::{Errno, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyXattr};

use super::convert::to_fuse;
use super::gate;
use crate::fs::{Attr, FsResult};

/// How long the kernel may keep what it was told: nobody else changes the volume.
pub(super) const TTL: Duration = Duration::from_secs(3600);
/// Inode numbers are never reused while the kernel knows them.
pub(super) const GENERATION: Generation = Generation(0);

/// Runs an operation; a panic in it, which is a bug, is an error of this one request.
pub(super) fn run<T>(operation: impl FnOnce() -> FsResult<T>) -> Result<T, Errno> {
    let _entered = gate::enter().ok_or(Errno::ENOTCONN)?;
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            tracing::debug!("{error}");
            Err(Errno::from_i32(error.errno()))
        }
        Err(_) => {
            tracing::error!("a request failed unexpectedly; please report this");
            Err(Errno::EIO)
        }
    }
}

pub(super) fn empty(reply: ReplyEmpty, operation: impl FnOnce() -> FsResult<()>) {
    match run(operation) {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn entry(reply: ReplyEntry, operation: impl FnOnce() -> FsResult<Attr>) {
    match run(operation) {
        Ok(attr) => reply.entry(&TTL, &to_fuse(&attr), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn attr(reply: ReplyAttr, operation: impl FnOnce() -> FsResult<Attr>) {
    match run(operation) {
        Ok(attr) => reply.attr(&TTL, &to_fuse(&attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn xattr(reply: ReplyXattr, size: u32, operation: impl FnOnce() -> FsResult<Vec<u8>>) {
    match run(operation) {
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
