//! Any bytes as the life of a few clients: what they ask, what they fetch, how time passes. The book stays as small as its
//! clients are many, every request gets its answer, and what was learned is a style that was offered.

#![no_main]

use std::net::Ipv4Addr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pxe::Mac;
use pxe::boot::{Offer, Plan};
use pxe::client::classify;
use pxe::dhcp::Request;
use pxe::strategy::{Action, Arrival, Book, Question, Server, Transfer, decide};

const CLASSES: [&[u8]; 4] = [
    b"PXEClient:Arch:00000",
    b"PXEClient:Arch:00007",
    b"PXEClient:Arch:00022",
    b"PhaseClient:Arch:00007",
];

fuzz_target!(|steps: &[u8]| {
    let mut book = Book::default();
    let mut now = Duration::ZERO;
    for step in steps.as_chunks::<3>().0 {
        let [what, who, wait] = *step;
        now += Duration::from_millis(u64::from(wait) * 500);
        let mac = Mac([2, 0, 0, 0, 0, who % 4]);
        match what % 8 {
            0..=3 => ask(&mut book, mac, what, now),
            4 => book.saw_tftp(mac, Transfer::Begun, now),
            5 => book.saw_tftp(mac, Transfer::Done, now),
            6 => book.saw_http(mac, Transfer::Begun, now),
            _ => book.forget(mac),
        }
        assert!(book.len() <= 4);
        assert!(book.learned().count() <= book.len());
    }
});

fn ask(book: &mut Book, mac: Mac, what: u8, now: Duration) {
    let class = CLASSES[usize::from(what >> 3) % CLASSES.len()];
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&mac.octets());
    bytes[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    let kind = if what & 1 == 0 { 1 } else { 3 };
    bytes.extend([53, 1, kind, 60, u8::try_from(class.len()).expect("short")]);
    bytes.extend(class);
    if what & 0x40 != 0 {
        bytes.extend(b"\x4d\x04iPXE");
    }
    let request = Request::parse(&bytes).expect("a request");
    let client = classify(&request).expect("a client");
    let plan = Plan::Netboot(Offer {
        tftp_file: Some("file".to_owned()),
        manifest_url: Some("http://192.0.2.1/manifest.json".to_owned()),
        ..Offer::default()
    });
    let server = Server {
        address: Ipv4Addr::new(192, 0, 2, 1),
        http_port: None,
        gives_addresses: what & 0x80 != 0,
    };
    let arrival = if what & 2 == 0 {
        Arrival::Port67
    } else {
        Arrival::Port4011
    };
    let question = Question {
        client: &client,
        request: &request,
        plan: &plan,
        server: &server,
        arrival,
    };
    if let Action::Answer(answer) = decide(book, &question, now) {
        assert!(!answer.reply.encode().is_empty() && !answer.strategy.is_empty());
    }
}
