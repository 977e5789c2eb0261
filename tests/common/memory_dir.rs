//! A directory in memory, for what is made thousands of times.

/// A temporary directory under /dev/shm; under /var/tmp where that keeps no user attributes.
pub(crate) fn memory_dir(prefix: &str) -> tempfile::TempDir {
    let make = |dir: &str| tempfile::Builder::new().prefix(prefix).tempdir_in(dir);
    let has_attributes = |dir: &tempfile::TempDir| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.path(), "user.kmsfs.try", b"", flags).is_ok()
    };
    match make("/dev/shm") {
        Ok(dir) if has_attributes(&dir) => dir,
        _ => make("/var/tmp").unwrap(),
    }
}
