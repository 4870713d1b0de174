//! Any bytes as a datagram. What is read as a request and taken for a client gets an answer in every style; it must be as
//! small as the client wants it, be read back as what was meant, and go where such answers go.

#![no_main]

use std::net::Ipv4Addr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pxe::boot::{Offer, Plan, Reason, Style};
use pxe::client::classify;
use pxe::dhcp::{Destination, Message, Operation, Request, options};
use pxe::strategy::{Action, Arrival, Book, Question, Server, decide};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::parse(bytes) {
        let _ = (message.boot_file(), message.server_id());
    }
    let Ok(request) = Request::parse(bytes) else {
        return;
    };
    let Some(client) = classify(&request) else {
        return;
    };
    let _ = (
        client.arch.to_string(),
        client.arch.folder(),
        client.firmware.name(),
    );
    for plan in plans() {
        for arrival in [Arrival::Port67, Arrival::Port4011] {
            for gives_addresses in [false, true] {
                let server = Server {
                    address: SERVER,
                    http_port: Some(8080),
                    gives_addresses,
                };
                let question = Question {
                    client: &client,
                    request: &request,
                    plan: &plan,
                    server: &server,
                    arrival,
                };
                if let Action::Answer(answer) =
                    decide(&mut Book::default(), &question, Duration::from_secs(1))
                {
                    check(&request, &answer.reply.encode(), answer.destination);
                }
            }
        }
    }
});

fn plans() -> Vec<Plan> {
    let mut plans = vec![Plan::LocalDisk, Plan::Silence(Reason::Denied)];
    for style in Style::ALL {
        plans.push(Plan::Netboot(Offer {
            tftp_file: Some("stable/x86_64/phase.efi".to_owned()),
            http_url: Some("http://192.0.2.1/phase.efi".to_owned()),
            script_url: Some("http://192.0.2.1/boot.ipxe".to_owned()),
            manifest_url: Some("http://192.0.2.1/manifest.json".to_owned()),
            style: Some(style),
            ..Offer::default()
        }));
    }
    plans
}

fn check(request: &Request, bytes: &[u8], destination: Destination) {
    assert!(bytes.len() >= 300 && bytes.len() <= request.reply_size_max());
    let read = Message::parse(bytes).expect("our own answer");
    assert_eq!(read.operation, Operation::Reply);
    assert_eq!((read.xid, read.mac), (request.xid, request.mac));
    assert_eq!(read.server_id(), Some(SERVER));
    assert!(read.yiaddr.is_unspecified());
    assert_eq!(read.options.get(options::OVERLOAD), None);
    if request.is_relayed() {
        assert_eq!(destination, Destination::Unicast(request.giaddr, 67));
    }
}
