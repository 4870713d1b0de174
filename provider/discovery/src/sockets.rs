//! The sockets of multicast DNS that this process has, so that one of them can be made deaf.
//!
//! mdns-sd reads until nothing is left, so its thread does nothing else as long as somebody sends faster than it reads: it
//! ends on no command, and its memory grows. A filter of the kernel that lets nothing through gives it its peace. mdns-sd
//! shows its sockets to nobody; they are found by their port.

use std::os::fd::{BorrowedFd, OwnedFd};

use socket2::{SockFilter, SockRef, Type};

/// The port of multicast DNS.
const PORT: u16 = 5353;

/// Descriptors that are looked at: the lowest free number is taken, so one of a program with fewer open is below.
const DESCRIPTORS_MAX: i32 = 1 << 16;

/// `ret 0` of the classic packet filter: no byte of any packet.
const NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// A socket of this process.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    /// The kernel's number of it, the same for each descriptor of one socket.
    cookie: u64,
}

/// All sockets of multicast DNS that this process has.
pub(crate) fn all() -> Vec<Socket> {
    let mut found: Vec<Socket> = Vec::new();
    for number in 0..DESCRIPTORS_MAX {
        let Some(socket) = socket(number) else {
            continue;
        };
        if !found.iter().any(|other| other.cookie == socket.cookie) {
            found.push(socket);
        }
    }
    found
}

#[expect(
    unsafe_code,
    reason = "mdns-sd shows its sockets to nobody, and a number is all there is of them"
)]
fn socket(number: i32) -> Option<Socket> {
    // SAFETY: nothing is closed, written or read by this number. One that is not open makes the first call fail. Should its
    // owner close it between the calls, they fail or are about another descriptor, which is asked for its name, type and
    // cookie and is no socket of this port.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let asked = SockRef::from(&borrowed);
    let address = asked.local_addr().ok()?.as_socket()?;
    if address.port() != PORT || asked.r#type().ok()? != Type::DGRAM {
        return None;
    }
    let descriptor = borrowed.try_clone_to_owned().ok()?;
    let cookie = SockRef::from(&descriptor).cookie().ok()?;
    Some(Socket { descriptor, cookie })
}

impl Socket {
    /// Whether it is one of these.
    pub(crate) fn is_in(&self, others: &[Self]) -> bool {
        others.iter().any(|other| other.cookie == self.cookie)
    }

    /// Lets nothing in from now on; what waits already is read still.
    pub(crate) fn deafen(&self) {
        if let Err(error) = SockRef::from(&self.descriptor).attach_filter(&[NOTHING]) {
            tracing::debug!(%error, "a socket of multicast DNS cannot be made deaf");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_socket_is_found_by_its_port_and_made_deaf() {
        let before = all();
        let new = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_reuse_port(true).unwrap();
            let address: std::net::SocketAddr = "127.0.0.9:5353".parse().unwrap();
            socket.bind(&address.into()).unwrap();
            UdpSocket::from(socket)
        };
        let socket = new();
        let clone = socket.try_clone().unwrap();
        let _other_port = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found: Vec<Socket> = all()
            .into_iter()
            .filter(|socket| !socket.is_in(&before))
            .filter(|found| {
                let address = SockRef::from(&found.descriptor).local_addr().unwrap();
                address.as_socket() == socket.local_addr().ok()
            })
            .collect();
        assert_eq!(found.len(), 1, "a clone is the same socket");
        socket.set_nonblocking(true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"heard", "127.0.0.9:5353").unwrap();
        assert_eq!(clone.recv(&mut [0; 16]).unwrap(), 5);
        found[0].deafen();
        sender.send_to(b"unheard", "127.0.0.9:5353").unwrap();
        let error = clone.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}
