//! What is agreed on with the kernel when a mount begins.

use fuser::{InitFlags, KernelConfig};

/// Largest request in bytes.
const MAX_IO: u32 = 1 << 20;
/// Requests of the kernel's own, such as read-ahead, that may be under way.
const MAX_BACKGROUND: u16 = 64;
const CAPABILITIES: [InitFlags; 7] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Set-ID bits are dropped on our side, which spares the kernel a question before every write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // A directory's default ACL takes the place of the umask.
    InitFlags::FUSE_DONT_MASK,
];

/// What this mount asks of the kernel.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// To gather writes.
    pub(super) writeback: bool,
    /// To check permissions, by modes and ACLs.
    pub(super) permissions: bool,
}

/// Asks for what we can do; answers whether handles may go past the page cache.
pub(super) fn settle(config: &mut KernelConfig, Terms { writeback, permissions }: Terms) -> bool {
    let gathering = writeback.then_some(InitFlags::FUSE_WRITEBACK_CACHE);
    // This alone makes the kernel check permissions, whatever the mount's options are.
    let lists = permissions.then_some(InitFlags::FUSE_POSIX_ACL);
    for capability in CAPABILITIES.into_iter().chain(gathering).chain(lists) {
        if config.add_capabilities(capability).is_err() {
            tracing::debug!("the kernel has no {capability:?}");
        }
    }
    // Each answers with the nearest value that it takes.
    let _ = config.set_max_write(MAX_IO);
    if let Err(most) = config.set_max_readahead(MAX_IO) {
        let _ = config.set_max_readahead(most);
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
    // Gathering is what makes small writes fast, and needs pages. And without mappings of direct files,
    // programs that map a file while another one writes it would fail.
    !writeback && config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok()
}
