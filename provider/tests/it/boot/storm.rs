//! Many machines that are switched on at the same moment, as after a power cut: each a boot ROM with its own habits.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use pxe::Mac;
use pxe::dhcp::Message;
use pxe::rom::{End, Model, Rom, Sent};

use super::{PATIENCE, Rig};

/// Machines in this test; the bench has more.
const MACHINES: u32 = 300;

/// What the second storm may add to the server's memory: nothing grows with the number of requests, but allocators keep
/// pages.
const GROWTH_MAX: u64 = 4 << 20;

/// One address for all of them: answers at port 4011 go to whoever asked.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);

#[test]
fn a_storm_leaves_nobody_behind_and_no_memory_taken() {
    let Some(mut rig) = Rig::new("boot storm") else {
        return;
    };
    rig.lan
        .ip("client", &format!("address add {CLIENTS}/24 dev eth0"))
        .unwrap();
    let pid = rig.start(&[]);
    let socket = rig.client().into_socket();
    storm(&socket);
    let first = resident(pid);
    storm(&socket);
    let second = resident(pid);
    assert!(
        second < first + GROWTH_MAX,
        "{first} bytes after one storm, {second} after two"
    );
    let counts = rig.status()["datagrams"].clone();
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert!(count("offered") >= u64::from(2 * MACHINES), "{counts}");
    assert_eq!((count("malformed"), count("unsent")), (0, 0), "{counts}");
}

/// All of them boot, or the test fails.
fn storm(socket: &UdpSocket) {
    let begun = Instant::now();
    let models = [
        Model::Edk2,
        Model::DirectBios,
        Model::Edk2Http,
        Model::OldEdk2,
    ];
    let mut roms: BTreeMap<u32, Rom> = (0..MACHINES)
        .zip(models.into_iter().cycle())
        .map(|(number, model)| {
            let [_, b, c, d] = number.to_be_bytes();
            let mac = Mac([0x52, 0x54, 1, b, c, d]);
            (number, Rom::new(model, mac, number, CLIENTS).hasty())
        })
        .collect();
    for rom in roms.values_mut() {
        let sent = rom.start(begun.elapsed());
        send(socket, &sent);
    }
    while roms.values().any(|rom| rom.end().is_none()) {
        assert!(begun.elapsed() < PATIENCE, "some machines still wait");
        let waiting = roms.values().filter(|rom| rom.end().is_none());
        let deadline = waiting.map(Rom::deadline).min().unwrap_or_default();
        let left = deadline.saturating_sub(begun.elapsed());
        if let Some(message) = receive(socket, left) {
            if let Some(rom) = roms.get_mut(&message.xid)
                && let Some(sent) = rom.received(&message, begun.elapsed())
            {
                send(socket, &sent);
            }
            continue;
        }
        let now = begun.elapsed();
        for rom in roms.values_mut().filter(|rom| rom.deadline() <= now) {
            if let Some(sent) = rom.expired(now) {
                send(socket, &sent);
            }
        }
    }
    for rom in roms.values() {
        assert!(matches!(rom.end(), Some(End::Boots { .. })), "{rom:?}");
    }
}

fn send(socket: &UdpSocket, sent: &Sent) {
    socket.send_to(&sent.bytes, (sent.to, sent.port)).unwrap();
}

/// The next answer, if one comes in time.
fn receive(socket: &UdpSocket, limit: Duration) -> Option<Message> {
    let limit = limit.max(Duration::from_millis(1));
    socket.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 2_048];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Message::parse(&buffer[..length]).ok()
}

/// Bytes of memory a process has.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.unwrap().trim().trim_end_matches(" kB");
    1024 * size.parse::<u64>().unwrap()
}
