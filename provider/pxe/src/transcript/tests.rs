//! Transcripts are written and read back, by machines and by people.

use super::*;

fn one(line: &str) -> Packet {
    let transcript = Transcript::parse(line).unwrap();
    let [packet] = &transcript.packets[..] else {
        panic!("{transcript:?}");
    };
    packet.clone()
}

#[test]
fn what_is_written_is_read_back() {
    for line in [
        "0.000000 - udp 0.0.0.0:68 > 255.255.255.255:67 0101060012*7 ff",
        "12.5 52:54:00:12:34:56 udp [fe80::1]:546 > [ff02::1:2]:547 01aabbcc",
        "1.000001 - udp 10.0.0.2:1069 > 10.0.0.9:2070 00030001 4d5a +1464",
        "1.2 - udp 10.0.0.2:1069 > 10.0.0.9:2070 0003 00*4 00 \"a text # with \"22\"quotes\"",
        "3 - udp 10.0.0.2:1069 > 10.0.0.9:2070",
        "4 - tcp 10.0.0.9:1 > 10.0.0.2:80 syn",
        "4 - tcp 10.0.0.2:80 > 10.0.0.9:1 syn ack",
        "4 - tcp 10.0.0.9:1 > 10.0.0.2:80 ack \"GET / HTTP/1.1\"0d0a0d0a",
        "4 - tcp 10.0.0.2:80 > 10.0.0.9:1 fin ack rst +9",
        "5 - icmp 10.0.0.2 > 10.0.0.9 unreachable=10.0.0.2:69",
        "6 - arp 10.0.0.9 > 10.0.0.2 request",
        "6 - arp 10.0.0.2 > 10.0.0.9 reply",
        "7 - fragment 10.0.0.2 > 10.0.0.9",
    ] {
        let transcript = Transcript {
            about: vec![("about".to_owned(), "a test: of all".to_owned())],
            packets: vec![one(line)],
        };
        let text = transcript.to_string();
        assert_eq!(Transcript::parse(&text), Ok(transcript), "{text}");
    }
}

#[test]
fn runs_and_words_are_easy_to_read() {
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend([0; 20]);
    bytes.extend(b"PXEClient\xff");
    let packet = Packet {
        content: Content::Udp(Payload { bytes, left_out: 3 }),
        ..one("0.25 - udp 0.0.0.0:68 > 255.255.255.255:67")
    };
    assert_eq!(
        Line(&packet).to_string(),
        "0.250000 - udp 0.0.0.0:68 > 255.255.255.255:67 010106 00*21 \"PXEClient\" ff +3 # BOOTP"
    );
}

#[test]
fn people_write_dhcp_by_names_and_numbers() {
    let line = "0 - dhcp 0.0.0.0:68 > 255.255.255.255:67 mac=52:54:00:00:00:09 xid=1234 secs=04 flags=8000 \
                53=01 60=\"PXEClient:Arch:00007\" 97=00*17 54=10.0.0.1 67=\"name\"ff";
    let packet = one(line);
    let bytes = &packet.udp().unwrap().bytes;
    assert_eq!(bytes[..12], [1, 1, 6, 0, 0, 0, 0x12, 0x34, 0, 4, 0x80, 0]);
    assert_eq!(bytes[28..34], [0x52, 0x54, 0, 0, 0, 9]);
    assert_eq!(bytes[236..243], [99, 130, 83, 99, 53, 1, 1]);
    let options = &bytes[243..];
    assert!(
        options.starts_with(b"\x3c\x14PXEClient:Arch:00007\x61\x11"),
        "{options:?}"
    );
    assert!(options.windows(6).any(|six| six == [54, 4, 10, 0, 0, 1]));
    assert!(options.windows(8).any(|all| all == b"\x43\x05name\xff\xff"));
    assert_eq!(bytes.len(), 300);
    assert_eq!(packet.to_string(), "DISCOVER");
    let reply =
        one("0 - dhcp 10.0.0.1:67 > 255.255.255.255:68 yiaddr=10.0.0.9 file=\"a.efi\" 53=02");
    let bytes = &reply.udp().unwrap().bytes;
    assert_eq!((bytes[0], &bytes[16..20]), (2, &[10, 0, 0, 9][..]));
    assert_eq!(bytes[108..115], *b"a.efi\0\0");
}

#[test]
fn what_cannot_be_understood_is_named_with_its_line() {
    let good = "0 - udp 1.2.3.4:1 > 1.2.3.4:2 00";
    for (line, why) in [
        ("nonsense", "want: SECONDS"),
        ("x - udp 1.2.3.4:1 > 1.2.3.4:2 00", "not a time"),
        ("0.1234567 - udp 1.2.3.4:1 > 1.2.3.4:2 00", "not a time"),
        ("-1 - udp 1.2.3.4:1 > 1.2.3.4:2 00", "not a time"),
        (
            "0 me udp 1.2.3.4:1 > 1.2.3.4:2 00",
            "not an Ethernet address",
        ),
        ("0 - sctp 1.2.3.4:1 > 1.2.3.4:2 00", "no protocol"),
        (
            "0 - udp 1.2.3.4:1 > 1.2.3.4:99999 00",
            "is not ADDRESS:PORT",
        ),
        ("0 - udp 1.2.3.4:1 > 1.2.3.4:2 0", "want hex digits"),
        ("0 - udp 1.2.3.4:1 > 1.2.3.4:2 +a", "want hex digits"),
        ("0 - udp 1.2.3.4:1 > 1.2.3.4:2 00*x", "want hex digits"),
        ("0 - udp 1.2.3.4:1 > 1.2.3.4:2 00*65536", "more than 65535"),
        ("0 - udp 1.2.3.4:1 > 1.2.3.4:2 é", "want hex digits"),
        ("0 - udp 1.2.3.4:1 > 1.2.3.4:2 \"open", "not closed"),
        ("0 - dhcp 1.2.3.4:1 > 1.2.3.4:2 sixty=00", "no field"),
        (
            "0 - dhcp 1.2.3.4:1 > 1.2.3.4:2 xid=0102030405",
            "longer than",
        ),
        ("0 - dhcp 1.2.3.4:1 > 1.2.3.4:2 43=00*256", "too long"),
        (
            "0 - icmp 1.2.3.4 > 1.2.3.4 redirect",
            "unreachable=ADDRESS:PORT",
        ),
        ("0 - arp 1.2.3.4 > 1.2.3.4 shout", "no protocol"),
        ("about: too late", "want: SECONDS"),
    ] {
        let error = Transcript::parse(&format!("a: b\n{good}\n{line}")).unwrap_err();
        assert!(
            error.line == 3 && error.why.contains(why),
            "{line}: {error}"
        );
    }
    let backwards = format!("{}\n{good}", good.replacen('0', "1", 1));
    let error = Transcript::parse(&backwards).unwrap_err();
    assert!(error.why.contains("earlier"), "{error}");
}

#[test]
fn a_key_is_one_word() {
    for line in ["\"a:b\":", "a:b: c", "a\u{1}: b"] {
        let error = Transcript::parse(line).unwrap_err();
        assert!(error.why.starts_with("want: SECONDS"), "{line:?}: {error}");
    }
}

#[test]
fn comments_blank_lines_and_keys_are_told_apart() {
    let text = "about: a machine # not a comment\nserver: 10.0.0.1\n\n# a comment\n0 - udp 1.2.3.4:1 > 1.2.3.4:2 \"#\" # end\n";
    let transcript = Transcript::parse(text).unwrap();
    assert_eq!(transcript.about("about"), "a machine # not a comment");
    assert_eq!(transcript.about("server"), "10.0.0.1");
    assert_eq!(transcript.about("client"), "");
    assert_eq!(transcript.packets[0].udp().unwrap().bytes, b"#");
}

#[test]
fn a_short_text_does_not_become_gigabytes() {
    let line = |at| format!("{at}.0 - udp 10.0.0.9:1 > 10.0.0.2:69 00*65535\n");
    let fits = BYTES_MAX / 65_535;
    let text: String = (0..fits).map(line).collect();
    assert_eq!(Transcript::parse(&text).unwrap().packets.len(), fits);
    let error = Transcript::parse(&(text + &line(fits))).unwrap_err();
    assert_eq!(error.line, fits + 1);
}

#[test]
fn what_is_wrong_is_said_without_what_steers_a_terminal() {
    for line in [
        "0.0 - dhcp 0.0.0.0:68 > 255.255.255.255:67 mac=\x1b[2J",
        "0.0 \x1b[2J udp 10.0.0.9:1 > 10.0.0.2:69 00",
        "0.0 - \x1b[2J 10.0.0.9:1 > 10.0.0.2:69 00",
        "0.0 - udp \x1b[2J > 10.0.0.2:69 00",
        "0.0 - udp 10.0.0.9:1 > 10.0.0.2:69 \x1b[2J",
    ] {
        let error = Transcript::parse(line).unwrap_err().to_string();
        assert!(!error.contains('\x1b'), "{error:?}");
    }
}
