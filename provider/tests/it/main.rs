//! The integration tests of `plasmd`: the real program against real other sides.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]
mod boot;
mod desk;
mod discover;
mod discover_dht;
mod discover_foreign;
mod discover_hostile;
mod discover_names;
mod discover_peers;
mod discover_watch;
mod doctor;
mod documents;
mod fetch;
mod fetch_faults;
mod fetch_network;
mod fetch_peers;
mod foreign;
mod init_end;
mod lan;
mod member;
mod net;
mod packets;
mod probe;
mod provider;
mod serve;
mod share;
mod stage;
mod stdout;
mod tftp;
mod tls_front;
mod typed;
mod update;
mod verify;
mod verify_directory;
mod verify_floor;
mod wire;
