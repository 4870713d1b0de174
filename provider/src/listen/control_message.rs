//! The one control message that a datagram comes with or leaves with, as `cmsg(3)` lays it out. What its content means is its
//! owner's matter.

/// Bytes before the content, as the kernel pads them.
pub(super) const HEAD_SIZE: usize = size_of::<libc::cmsghdr>().next_multiple_of(size_of::<usize>());

/// Where the level stands, behind the length.
const LEVEL_AT: usize = size_of::<usize>();

/// Where the kind stands.
const KIND_AT: usize = LEVEL_AT + size_of::<libc::c_int>();

/// Bytes of a message with `content` bytes in it, with its padding.
pub(super) const fn size(content: usize) -> usize {
    HEAD_SIZE + content.next_multiple_of(size_of::<usize>())
}

/// The content of the first message, when it is of this level and kind.
pub(super) fn content(control: &[u8], level: libc::c_int, kind: libc::c_int) -> Option<&[u8]> {
    let number = |at: usize| -> Option<libc::c_int> {
        let bytes = control.get(at..at + size_of::<libc::c_int>())?;
        Some(libc::c_int::from_ne_bytes(bytes.try_into().ok()?))
    };
    let is_it = number(LEVEL_AT)? == level && number(KIND_AT)? == kind;
    control.get(HEAD_SIZE..).filter(|_| is_it)
}

/// A message of [`size`]`(content.len())` bytes.
pub(super) fn message<const SIZE: usize>(
    level: libc::c_int,
    kind: libc::c_int,
    content: &[u8],
) -> [u8; SIZE] {
    let mut control = [0; SIZE];
    let length = HEAD_SIZE + content.len();
    let parts: [(usize, &[u8]); 4] = [
        (0, &length.to_ne_bytes()),
        (LEVEL_AT, &level.to_ne_bytes()),
        (KIND_AT, &kind.to_ne_bytes()),
        (HEAD_SIZE, content),
    ];
    for (at, bytes) in parts {
        if let Some(place) = control.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
    control
}
