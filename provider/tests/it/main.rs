//! The integration tests of `plasmd`: the real program against real other sides.

mod lan;
mod net;
