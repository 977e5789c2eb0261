//! How much of a file the kernel's page cache has.

use std::fs::File;
use std::io;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Pages of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residency {
    /// Those that are in the page cache.
    pub resident: u64,
    /// All of them.
    pub pages: u64,
}

/// Looks which pages of a file that is open for reading are in the page cache, and leaves it as it is.
///
/// # Errors
/// As mmap(2) and mincore(2): not every file can be mapped. Of a file that this process may neither
/// write nor owns, the kernel claims that all of it is there.
pub fn residency(file: &File) -> io::Result<Residency> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(Residency::default());
    }
    // SAFETY: a new mapping at an address of the kernel's choice, which is never read.
    let at = unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
    let mut flags = vec![0_u8; len.div_ceil(rustix::param::page_size())];
    // SAFETY: exactly the mapping, and a byte for each of its pages.
    let answer = unsafe { libc::mincore(at, len, flags.as_mut_ptr()) };
    let looked = if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: exactly the mapping, of which nothing is left.
    unsafe { munmap(at, len) }?;
    looked?;
    // The other bits are reserved.
    let resident = flags.iter().filter(|flag| **flag & 1 == 1).count() as u64;
    Ok(Residency { resident, pages: flags.len() as u64 })
}

#[cfg(test)]
mod tests {
    use rustix::fs::Advice;

    use super::*;

    #[test]
    fn what_was_written_is_resident_until_it_is_dropped() {
        // Not in /tmp, which may be a tmpfs: that one drops nothing.
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        assert_eq!(residency(&file).unwrap(), Residency::default());
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 10_000], 0).unwrap();
        let pages = 10_000_u64.div_ceil(rustix::param::page_size() as u64);
        assert_eq!(residency(&file).unwrap(), Residency { resident: pages, pages });
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert_eq!(residency(&file).unwrap().pages, pages);
        assert!(residency(&file).unwrap().resident < pages, "nothing was dropped");
    }
}
