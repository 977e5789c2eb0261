//! Sockets that a service manager opened and passes on (sd_listen_fds(3)).

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::BorrowedFd;

use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{AddressFamily, SocketType, getsockname};

/// The TCP listeners that were passed to this process, each with its name.
///
/// # Errors
/// When the environment that describes them is malformed, or one is no TCP listener.
pub fn listeners() -> io::Result<Vec<(String, TcpListener)>> {
    sd_notify::listen_fds_with_names()?
        .map(|(number, name)| {
            // SAFETY: `listen_fds_with_names` has set a flag of this descriptor, so it is open. The
            // service manager's descriptors are left open for the life of the process, and what is
            // borrowed here is duplicated at once.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            let own = borrowed.try_clone_to_owned()?;
            let family = getsockname(&own)?.address_family();
            let is_ip = family == AddressFamily::INET || family == AddressFamily::INET6;
            if !is_ip || socket_type(&own)? != SocketType::STREAM || !socket_acceptconn(&own)? {
                let message = format!("descriptor {number} ({name}) is no listening TCP socket");
                return Err(io::Error::new(ErrorKind::InvalidInput, message));
            }
            Ok((name, TcpListener::from(own)))
        })
        .collect()
}
