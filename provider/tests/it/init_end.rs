//! Init's end of the socket pair that every role of the appliance has.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use boot_manifest::handoff::{REPORT_SIZE_MAX, Report};
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

/// Init's end, and the role's, which a program inherits.
pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("a socket pair");
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).expect("it can be inherited");
    (ours, theirs)
}

/// The next report, with the files beside it; nothing when the role has ended.
pub(crate) fn receive(ours: &OwnedFd) -> Option<(Report, Vec<OwnedFd>)> {
    let mut packet = [0; REPORT_SIZE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut packet)];
    let message = recvmsg(ours, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
        .expect("a packet in time");
    let fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    let packet = &packet[..message.bytes];
    (!packet.is_empty()).then(|| (Report::decode(packet).expect("a report"), fds))
}
