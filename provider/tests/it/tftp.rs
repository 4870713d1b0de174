//! Boot files over TFTP: the clients that people have, and packet by packet what firmware does.

mod client;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lan::{has_program, skip, until};
use crate::provider::{PATIENCE, Provider, Tree};
use crate::tftp::client::{Client, Packet, request};

/// Longer than an answer takes, where none is to come.
const QUIET: Duration = Duration::from_millis(300);

/// Bytes that tell their place.
fn content(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let words = std::iter::repeat_with(next).take(size / 8 + 1);
    words.flatten().take(size).collect()
}

fn serve(tree: &Tree, flags: &[&str]) -> (Provider, SocketAddr) {
    let mut all = vec!["--arch", "x86_64", "--tftp-port", "0"];
    all.extend(flags);
    let mut provider = Provider::start(tree.root(), &all);
    let line = provider.wait_for_log("boot files over TFTP address=");
    let address = line.split("address=").nth(1).unwrap().trim();
    (provider, address.parse().unwrap())
}

fn metric(provider: &Provider, series: &str) -> u64 {
    let page = String::from_utf8(provider.get("/metrics").body).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap().trim().parse().unwrap()
}

fn ended(provider: &Provider, end: &str) -> u64 {
    metric(
        provider,
        &format!("plasmd_tftp_requests_total{{end=\"{end}\"}}"),
    )
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Runs the clients of distributions; each must have written `file`.
fn clients(folder: &Path, server: SocketAddr, name: &str, expected: &[u8]) {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let url = format!("tftp://{server}/{name}");
    let known: [(&str, Vec<&str>); 7] = [
        ("curl", vec!["-sS", "-o", "file", &url]),
        (
            "curl",
            vec!["-sS", "--tftp-blksize", "1468", "-o", "file", &url],
        ),
        (
            "curl",
            vec!["-sS", "--tftp-blksize", "65464", "-o", "file", &url],
        ),
        ("curl", vec!["-sS", "--tftp-no-options", "-o", "file", &url]),
        (
            "tftp",
            vec!["-m", "binary", &host, &port, "-c", "get", name, "file"],
        ),
        (
            "atftp",
            vec![
                "--option",
                "windowsize 16",
                "--option",
                "blksize 1432",
                "-g",
                "-r",
                name,
                "-l",
                "file",
                &host,
                &port,
            ],
        ),
        (
            "busybox",
            vec![
                "tftp", "-g", "-b", "1468", "-r", name, "-l", "file", &host, &port,
            ],
        ),
    ];
    for (program, arguments) in known {
        if !has_program(program) {
            skip(
                "every_client_gets_the_file",
                &format!("{program} is not installed"),
            );
            continue;
        }
        run(Command::new(program).args(&arguments).current_dir(folder));
        let file = folder.join("file");
        assert!(
            fs::read(&file).unwrap() == expected,
            "{program} {arguments:?}"
        );
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn every_client_gets_the_file() {
    let file = content(1_000_003);
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &file)]);
    let (mut provider, server) = serve(&tree, &[]);
    let folder = tempfile::tempdir().unwrap();
    clients(folder.path(), server, "phase.efi", &file);
    provider.wait_for_log("boot file sent over TFTP");
    assert_eq!(ended(&provider, "aborted"), 0);
    let (single, server) = serve(&tree, &["--tftp-single-port"]);
    clients(folder.path(), server, "stable/amd64/phase.efi", &file);
    assert_eq!(ended(&single, "aborted"), 0);
}

// C25, C26, C28, C29
#[test]
fn options_are_answered_from_a_port_of_their_own() {
    let file = content(100_000);
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &file)]);
    let (_provider, server) = serve(&tree, &[]);
    let edk2 = [("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")];
    let mut client = Client::ask(server, b"phase.efi", &edk2);
    let pairs = [
        ("tsize", "100000"),
        ("blksize", "1468"),
        ("windowsize", "4"),
    ];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(client.receive(), Packet::Oack(pairs.to_vec()));
    assert_ne!(client.server.port(), server.port());
    client.ack(0);
    let (got, packets) = client.fetch(1468, 4);
    assert!(got == file);
    assert!(packets >= 69, "{packets}");
    // Without options there is no OACK, and blocks have 512 bytes.
    let mut client = Client::ask(server, b"phase.efi", &[]);
    assert_eq!(client.receive(), Packet::Data(1, file[..512].to_vec()));
    // All from the one port.
    let (_single, server) = serve(&tree, &["--tftp-single-port"]);
    let mut client = Client::ask(server, b"phase.efi", &[("BLKSIZE", "1024")]);
    let pairs = vec![("BLKSIZE".to_owned(), "1024".to_owned())];
    assert_eq!(client.receive(), Packet::Oack(pairs));
    assert_eq!(client.server, server);
    client.ack(0);
    assert!(client.fetch(1024, 1).0 == file);
    assert_eq!(client.server, server);
}

// C10, C32, C33
#[test]
fn names_lead_to_boot_files_and_nowhere_else() {
    let tree = Tree::new(&[
        ("stable/x86_64/phase.efi", b"default"),
        ("stable/aarch64/phase.efi", b"arm"),
        ("testing/x86_64/undionly.kpxe", b"testing"),
        ("secret", b"secret"),
    ]);
    std::os::unix::fs::symlink("../../secret", tree.path("stable/x86_64/link")).unwrap();
    let (provider, server) = serve(&tree, &[]);
    for (name, expected) in [
        (&b"phase.efi"[..], "default"),
        (b"/phase.efi", "default"),
        (b"\\PHASE.EFI", "default"),
        (b"C:\\boot\\\\phase.efi", "default"),
        (b"phase.efi\xff\xff", "default"),
        (b"stable/arm64/phase.efi", "arm"),
        (b"//stable//aarch64/phase.efi", "arm"),
        (b"testing/x86_64/undionly.kpxe", "testing"),
    ] {
        let packet = Client::ask(server, name, &[]).receive();
        assert_eq!(
            packet,
            Packet::Data(1, expected.into()),
            "{}",
            name.escape_ascii()
        );
    }
    let not_found = Packet::Error(1, "not found".to_owned());
    for name in [
        &b"grubx64.efi"[..],
        b"revocations.efi",
        b"UEFI PXEv4 (MAC:525400123456)",
        b"../../../etc/passwd",
        b"/etc/passwd",
        b"..\\secret",
        b"stable/x86_64/../../secret",
        b"secret",
        b"stable",
        b"\xff",
    ] {
        let begun = Instant::now();
        let packet = Client::ask(server, name, &[("tsize", "0")]).receive();
        assert_eq!(packet, not_found, "{}", name.escape_ascii());
        // Firmware that asks for what is not there goes on at once (C32).
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    let Packet::Error(0, text) = Client::ask(server, b"link", &[]).receive() else {
        panic!("links are not followed");
    };
    assert!(text.contains("link"), "{text}");
    assert_eq!(ended(&provider, "refused"), 11);
}

#[test]
fn nobody_writes_and_nobody_gets_text() {
    let tree = Tree::new(&[("stable/x86_64/phase.efi", b"x")]);
    let (_provider, server) = serve(&tree, &[]);
    let check = |packet: &[u8], code: u16, text: &str| {
        let mut client = Client::new(server);
        client.send(packet);
        assert_eq!(client.receive(), Packet::Error(code, text.to_owned()));
    };
    check(
        &request(2, b"phase.efi", "octet", &[]),
        2,
        "this server is read only",
    );
    check(
        &request(1, b"phase.efi", "netascii", &[]),
        4,
        "only octet is served",
    );
    check(b"\0\x01phase.efi", 4, "malformed request: no mode");
    // Two servers must not answer each other's errors.
    for stray in [
        &b""[..],
        b"\0",
        b"\0\x04\0\x01",
        b"\0\x05\0\x01x\0",
        b"\0\x63",
    ] {
        let mut client = Client::new(server);
        client.send(stray);
        assert_eq!(client.receive_within(QUIET), None);
    }
}

// C27
#[test]
fn asking_for_the_size_is_no_failure() {
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &content(5_000))]);
    let (mut provider, server) = serve(&tree, &[]);
    for _ in 0..3 {
        let mut client = Client::ask(server, b"phase.efi", &[("tsize", "0")]);
        assert_eq!(
            client.receive(),
            Packet::Oack(vec![("tsize".into(), "5000".into())])
        );
        client.send(b"\0\x05\0\0User aborted download\0");
    }
    assert!(until(PATIENCE, || ended(&provider, "size-told") == 3));
    assert_eq!(ended(&provider, "aborted"), 0);
    // In the middle it is one.
    let mut client = Client::ask(server, b"phase.efi", &[("tsize", "0")]);
    client.receive();
    client.ack(0);
    client.receive();
    client.ack(1);
    client.send(b"\0\x05\0\x03disk full\0");
    provider.wait_for_log("broke off: the client says: error 3, disk full");
    assert_eq!(ended(&provider, "aborted"), 1);
}

// C30
#[test]
fn the_block_counter_goes_round() {
    let file = content(8 * 70_000 + 3);
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &file)]);
    let (_provider, server) = serve(&tree, &[]);
    let options = [("blksize", "8"), ("windowsize", "64")];
    let (got, _) = Client::ask(server, b"phase.efi", &options).fetch(8, 64);
    assert!(got == file);
}

// C29, C31
#[test]
fn acknowledging_twice_doubles_nothing() {
    let file = content(100 * 512 + 1);
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &file)]);
    let (_provider, server) = serve(&tree, &[]);
    let mut client = Client::ask(server, b"phase.efi", &[]);
    let mut packets = 0_u32;
    loop {
        let Packet::Data(block, bytes) = client.receive() else {
            panic!("data was asked for");
        };
        packets += 1;
        client.ack(block);
        client.ack(block);
        client.ack(block.wrapping_sub(1));
        if bytes.len() < 512 {
            break;
        }
    }
    // A busy machine may be silent for long enough to be sent something again; an apprentice would send all of it.
    assert!(packets < 150, "{packets} packets for 101 blocks");
}

// C31
#[test]
fn what_is_lost_is_sent_again_soon() {
    let file = content(1_000);
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &file)]);
    let (_provider, server) = serve(&tree, &[]);
    let begun = Instant::now();
    let mut client = Client::ask(server, b"phase.efi", &[("blksize", "512")]);
    // The OACK three times, and then the first block.
    for _ in 0..3 {
        assert!(matches!(client.receive(), Packet::Oack(_)));
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(700),
        "{:?}",
        begun.elapsed()
    );
    client.ack(0);
    loop {
        match client.receive() {
            Packet::Data(1, bytes) => assert_eq!(bytes, file[..512]),
            other => panic!("{other:?}"),
        }
        if client.receive_within(Duration::from_secs(5))
            == Some(Packet::Data(1, file[..512].to_vec()))
        {
            break;
        }
    }
    client.ack(1);
    assert!(until(PATIENCE, || client.receive()
        == Packet::Data(2, file[512..].to_vec())));
    client.ack(2);
    // The request itself again, from the same port, is the same request.
    let mut client = Client::ask(server, b"phase.efi", &[]);
    let port = {
        client.receive();
        client.server
    };
    client.send_to(server, &request(1, b"phase.efi", "octet", &[]));
    client.receive();
    assert_eq!(client.server, port);
}

/// The network, or a client that waited for its file to be opened, delivers a request twice.
#[test]
fn a_request_that_was_on_its_way_twice_disturbs_nothing() {
    let file = content(100_000);
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &file)]);
    let (provider, server) = serve(&tree, &[]);
    let options = [("blksize", "1024")];
    let again = request(1, b"phase.efi", "octet", &options);
    let mut client = Client::ask(server, b"phase.efi", &options);
    assert!(matches!(client.receive(), Packet::Oack(_)));
    client.ack(0);
    client.receive();
    let port = client.server;
    for block in 1..20 {
        client.ack(block);
        let next = client.receive();
        assert!(matches!(next, Packet::Data(..)), "{next:?}");
        client.send_to(server, &again);
    }
    assert!(client.fetch_from(20, &file[..20 * 1024], 1024, 1).0 == file);
    assert_eq!(client.server, port, "another transfer began");
    assert!(until(PATIENCE, || ended(&provider, "sent") == 1));
    assert_eq!(ended(&provider, "aborted"), 0);
    // Without the options it is another request: the client did without an answer to them.
    let mut client = Client::ask(server, b"phase.efi", &options);
    assert!(matches!(client.receive(), Packet::Oack(_)));
    client.send_to(server, &request(1, b"phase.efi", "octet", &[]));
    assert!(until(PATIENCE, || client.receive()
        == Packet::Data(1, file[..512].to_vec())));
}

#[test]
fn five_hundred_at_once_share_one_file_and_little_memory() {
    const CLIENTS: usize = 500;
    let file = content(60_000);
    let tree = Tree::new(&[(
        "stable/x86_64/phase.efi",
        &[&file[..], &content(200_000)].concat(),
    )]);
    let (provider, server) = serve(&tree, &[]);
    // Warm: hashed, and every table grown once.
    Client::ask(server, b"phase.efi", &[("blksize", "1024")]).fetch(1024, 1);
    let before = provider.resident_bytes();
    let options = [("blksize", "1024"), ("windowsize", "4")];
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::ask(server, b"phase.efi", &options))
        .collect();
    for client in &mut clients {
        assert!(matches!(client.receive(), Packet::Oack(_)));
    }
    let open = provider.open_files();
    let files = open
        .iter()
        .filter(|path| path.ends_with("phase.efi"))
        .count();
    assert!(files <= 2, "the file is open {files} times");
    let grown = provider.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for {CLIENTS} transfers");
    let mut seen = vec![0_u64; CLIENTS];
    while seen.iter().any(|has| *has < 60) {
        for (client, has) in clients.iter_mut().zip(&mut seen) {
            client.ack(*has as u16);
            // Whatever was sent again meanwhile is skipped.
            let end = *has + 4;
            while *has < end {
                if let Packet::Data(block, bytes) = client.receive()
                    && u64::from(block) == *has + 1
                {
                    let at = *has as usize * 1024;
                    if at + 1024 <= file.len() {
                        assert!(bytes == file[at..at + 1024]);
                    }
                    *has += 1;
                }
            }
        }
    }
    let grown = provider.resident_bytes().saturating_sub(before);
    assert!(grown < 12 << 20, "{grown} bytes for {CLIENTS} transfers");
    drop(clients);
}

#[test]
fn a_file_that_changes_meanwhile_is_not_ended_well() {
    // Smaller ones are in memory.
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &content(100_000))]);
    let (mut provider, server) = serve(&tree, &[]);
    let mut client = Client::ask(server, b"phase.efi", &[]);
    client.receive();
    // In place: the same file has other bytes.
    tree.write("stable/x86_64/phase.efi", &content(110_000));
    let mut block = 1;
    let error = loop {
        client.ack(block);
        match client.receive() {
            Packet::Data(number, bytes) => {
                assert_eq!(bytes.len(), 512, "the end of a file that is not that one");
                block = number;
            }
            Packet::Error(_, text) => break text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error, "the file was changed meanwhile");
    provider.wait_for_log("broke off");
    // Written to in place, with the same bytes: whoever comes next gets the file that is there now.
    let same = content(110_000);
    let mut slow = Client::ask(server, b"phase.efi", &[]);
    slow.receive();
    // The clock of files ticks.
    std::thread::sleep(Duration::from_millis(20));
    tree.write("stable/x86_64/phase.efi", &same);
    let (got, _) = Client::ask(server, b"phase.efi", &[("blksize", "8192")]).fetch(8192, 1);
    assert!(got == same);
    drop(slow);
    // A release is replaced by another file of that name: the old one is sent to its end.
    let mut client = Client::ask(server, b"phase.efi", &[]);
    client.receive();
    tree.replace("stable/x86_64/phase.efi", b"new");
    // The first block comes again.
    let (old, _) = client.fetch(512, 1);
    assert_eq!(old.len(), 110_000);
}

#[test]
fn stopping_tells_the_clients() {
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &content(5_000))]);
    let (mut provider, server) = serve(&tree, &[]);
    let mut client = Client::ask(server, b"phase.efi", &[]);
    client.receive();
    provider.signal(Signal::TERM);
    let mut packet = client.receive();
    while matches!(packet, Packet::Data(..)) {
        packet = client.receive();
    }
    assert_eq!(
        packet,
        Packet::Error(0, "the server is stopping".to_owned())
    );
    assert!(provider.wait().success());
}

#[test]
fn ipxe_comes_from_its_own_folder_unless_it_is_an_artifact() {
    let tree = Tree::new(&[
        ("artifacts/stable/x86_64/vmlinuz", b"kernel"),
        ("artifacts/stable/x86_64/snponly.efi", b"ours"),
        ("ipxe/snponly.efi", b"theirs"),
        ("ipxe/undionly.kpxe", b"bios"),
        ("ipxe/ipxe.iso", b"iso"),
    ]);
    let folder = tree.path("ipxe");
    let flags = [
        "--arch",
        "x86_64",
        "--tftp-port",
        "0",
        "--ipxe-dir",
        folder.to_str().unwrap(),
    ];
    let mut provider = Provider::start(&tree.path("artifacts"), &flags);
    let line = provider.wait_for_log("boot files over TFTP address=");
    let server: SocketAddr = line
        .split("address=")
        .nth(1)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let over_tftp = |name: &[u8]| match Client::ask(server, name, &[]).receive() {
        Packet::Data(1, bytes) => String::from_utf8(bytes).unwrap(),
        other => format!("{other:?}"),
    };
    assert_eq!(over_tftp(b"snponly.efi"), "ours");
    assert_eq!(over_tftp(b"undionly.kpxe"), "bios");
    assert!(over_tftp(b"ipxe.iso").contains("not found"));
    assert_eq!(provider.get("/stable/x86_64/undionly.kpxe").body, b"bios");
    assert_eq!(provider.get("/stable/x86_64/snponly.efi").body, b"ours");
    assert_eq!(provider.get("/stable/aarch64/undionly.kpxe").status, 404);
}

#[test]
fn ipv6_is_served_beside_ipv4() {
    let tree = Tree::new(&[("stable/x86_64/phase.efi", b"six")]);
    let (mut provider, _) = serve(&tree, &["--bind", "::1"]);
    let line = provider.wait_for_log("address=[::1]");
    let server: SocketAddr = line
        .split("address=")
        .nth(1)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let mut client = Client::ask(
        server,
        b"phase.efi",
        &[("blksize", "9000"), ("windowsize", "2")],
    );
    client.receive();
    client.ack(0);
    assert_eq!(client.fetch(9000, 2).0, b"six");
}

#[test]
fn lost_packets_cost_little() {
    let file = content(1 << 20);
    let tree = Tree::new(&[("stable/x86_64/phase.efi", &file)]);
    let (_provider, server) = serve(&tree, &[]);
    for window in [1, 4, 16] {
        let value = window.to_string();
        let options = [("blksize", "1428"), ("windowsize", value.as_str())];
        let begun = Instant::now();
        // One in twenty on each way; many kernels have no netem, so the client loses them.
        let mut client = Client::lossy(server, 20);
        while client.receive_within(Duration::from_millis(500)).is_none() {
            client.send(&request(1, b"phase.efi", "octet", &options));
        }
        client.ack(0);
        let (got, packets) = client.fetch(1428, window);
        assert!(got == file);
        // 735 blocks. Servers that wait for a second each time need more than half a minute.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "window {window}: {took:?}");
        assert!(packets < 3_000, "window {window}: {packets} packets");
    }
}
