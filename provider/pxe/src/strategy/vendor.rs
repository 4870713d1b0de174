//! What stands in option 43 for PXE firmware (PXE 2.1, table 2-1): sub-options, and an end mark of their own.

use std::net::Ipv4Addr;

/// Sub-option 6: how the client finds its boot server.
const DISCOVERY_CONTROL: u8 = 6;
/// Sub-option 8: the boot servers.
const BOOT_SERVERS: u8 = 8;
/// Sub-option 9: the boot menu.
const BOOT_MENU: u8 = 9;
/// Sub-option 10: the text above the menu, and how long it waits.
const MENU_PROMPT: u8 = 10;
/// Sub-option 71: which boot item was chosen.
const BOOT_ITEM: u8 = 71;
/// The end of the sub-options.
const END: u8 = 255;

/// Discovery control: the boot file is the one named in this message.
const USE_THIS_FILE: u8 = 8;
/// Discovery control: neither broadcast nor multicast, only the servers of the list.
const LISTED_SERVERS_ONLY: u8 = 7;
/// The prompt waits no time: the first entry is taken at once.
const AT_ONCE: u8 = 0;

/// The type of our boot server: the first of those that vendors may choose themselves.
const OURS: u16 = 0x8000;
/// The type that means: go on with the local disk.
const LOCAL: u16 = 0;

/// The text a Raspberry Pi looks for: exactly these 17 bytes (C55).
const RASPBERRY_PI: &str = "Raspberry Pi Boot";

/// The file of this message is to be used, and nobody else asked.
pub(super) fn direct() -> Vec<u8> {
    vec![DISCOVERY_CONTROL, 1, USE_THIS_FILE, END]
}

/// A menu whose one entry is this server and takes itself.
pub(super) fn menu(server: Ipv4Addr) -> Vec<u8> {
    let mut out = vec![DISCOVERY_CONTROL, 1, LISTED_SERVERS_ONLY];
    let mut servers = OURS.to_be_bytes().to_vec();
    servers.push(1);
    servers.extend(server.octets());
    put(&mut out, BOOT_SERVERS, &servers);
    put(&mut out, BOOT_MENU, &entry(OURS, "Phase"));
    put(&mut out, MENU_PROMPT, &[&[AT_ONCE], &b"Phase"[..]].concat());
    out.push(END);
    out
}

/// A menu whose one entry is the local disk and takes itself (C53).
pub(super) fn local_disk() -> Vec<u8> {
    let mut out = vec![DISCOVERY_CONTROL, 1, LISTED_SERVERS_ONLY];
    put(&mut out, BOOT_MENU, &entry(LOCAL, "Boot from local disk"));
    put(
        &mut out,
        MENU_PROMPT,
        &[&[AT_ONCE], &b"Boot from local disk"[..]].concat(),
    );
    out.push(END);
    out
}

/// What a Raspberry Pi wants to see before it fetches anything (C55).
pub(super) fn raspberry_pi() -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, BOOT_MENU, &entry(LOCAL, RASPBERRY_PI));
    put(&mut out, MENU_PROMPT, &[&[AT_ONCE], &b"PXE"[..]].concat());
    out.push(END);
    out
}

/// The boot item that the client chose, as it chose it (C7).
pub(super) fn boot_item(item: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, BOOT_ITEM, item);
    out.push(END);
    out
}

fn entry(kind: u16, text: &str) -> Vec<u8> {
    let size = u8::try_from(text.len()).unwrap_or(u8::MAX);
    let mut out = kind.to_be_bytes().to_vec();
    out.push(size);
    out.extend(text.bytes().take(usize::from(size)));
    out
}

fn put(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    let size = u8::try_from(value.len()).unwrap_or(u8::MAX);
    out.extend([code, size]);
    out.extend(value.iter().take(usize::from(size)));
}
