//! Taking part in the DHT: what `plasmd serve` and the role `dht` of the appliance have in common.
//!
//! | module | holds |
//! | --- | --- |
//! | `args` | the flags, and what they ask for once the port and the members to begin with were looked at |
//! | `announcer` | says what is served for as long as it is |
//! | `membership` | what people and `/metrics` are told about it |
//! | `role` | `plasmd dht`, on the appliance |
//!
//! The protocol is in crate `discovery`. Nothing here decides what is believed: whoever finds this provider verifies what
//! it serves. Nothing is ever said to others before somebody asked for it, or left out `--no-dht`.

pub(crate) mod announcer;
pub(crate) mod args;
pub(crate) mod membership;
pub(crate) mod role;

/// Where the peer key and the list of peers are kept, below the state directory; the name has the version of what is in it.
pub(crate) const FOLDER: &str = "dht-v1";
