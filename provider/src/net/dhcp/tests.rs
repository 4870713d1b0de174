//! The client against a scripted server, with time as a number.

use super::super::fixture::{MAC, Reply, SERVER_MAC, frame};
use super::*;

fn at(ms: i64) -> Instant {
    Instant::from_millis(ms)
}

fn client() -> Client {
    client_that_asks(false)
}

fn client_that_asks(provider: bool) -> Client {
    let options = &[];
    Client::new(MAC, 42, Asks { options, provider }, at(0))
}

/// Polls at `ms`; gives the kinds of what was sent and the last transaction.
fn poll(client: &mut Client, ms: i64) -> (Vec<DhcpMessageType>, Option<Event>) {
    let mut frames = Vec::new();
    let event = client.poll(at(ms), &mut frames);
    let kinds = frames
        .iter()
        .filter_map(|frame| sent_dhcp(frame))
        .map(|(_, kind)| kind)
        .collect();
    (kinds, event)
}

fn answer(client: &mut Client, ms: i64, kind: DhcpMessageType, reply: Reply) -> Option<Event> {
    answer_into(client, ms, kind, reply, &mut Vec::new())
}

fn answer_into(
    client: &mut Client,
    ms: i64,
    kind: DhcpMessageType,
    reply: Reply,
    frames: &mut Vec<Vec<u8>>,
) -> Option<Event> {
    let reply = Reply {
        transaction: client.transaction,
        ..reply
    };
    client.receive(&frame(kind, &reply), at(ms), frames)
}

/// A client that got `reply` as its lease at 0 ms.
fn leased(reply: Reply) -> (Client, Lease) {
    let mut client = client();
    assert_eq!(poll(&mut client, 0).0, [DhcpMessageType::Discover]);
    assert_eq!(
        answer(&mut client, 0, DhcpMessageType::Offer, reply.clone()),
        None
    );
    match answer(&mut client, 0, DhcpMessageType::Ack, reply) {
        Some(Event::Leased(lease)) => (client, lease),
        other => panic!("no lease: {other:?}"),
    }
}

const PROVIDER: &str = "http://10.0.0.9:8080/stable/x86_64/manifest.json";

/// What a boot server says beside the address server.
fn boot_offer(transaction: u32) -> Reply {
    Reply {
        transaction,
        address: Ipv4Addr::UNSPECIFIED,
        mask: None,
        seconds: None,
        server: Some(Ipv4Addr::new(10, 0, 0, 9)),
        extra: vec![(60, b"PhaseClient".to_vec()), (67, PROVIDER.into())],
    }
}

fn providers(client: &Client) -> Vec<String> {
    let all = client.providers().all().iter();
    all.map(ToString::to_string).collect()
}

/// Runs the clock until `end` and gives when frames of DHCP left.
fn sent_until(client: &mut Client, from: i64, end: i64) -> Vec<(i64, DhcpMessageType)> {
    let (mut sent, mut now) = (Vec::new(), from);
    let mut rounds = 0;
    while now <= end {
        sent.extend(poll(client, now).0.into_iter().map(|kind| (now, kind)));
        let next = client.next_at(at(now)).total_millis();
        now = next.max(now + 1);
        rounds += 1;
        assert!(rounds < 10_000, "the client spins");
    }
    sent
}

#[test]
fn a_boot_server_names_a_provider_before_and_after_the_lease_and_gives_no_address() {
    let mut client = client_that_asks(true);
    assert_eq!(poll(&mut client, 0).0, [DhcpMessageType::Discover]);
    let discover = client.transaction;
    let offer = DhcpMessageType::Offer;
    assert_eq!(answer(&mut client, 0, offer, Reply::default()), None);
    // The boot server is slower: the client has asked for its address already.
    let late = frame(offer, &boot_offer(discover));
    assert_eq!(client.receive(&late, at(40), &mut Vec::new()), None);
    assert_eq!(providers(&client), [PROVIDER]);
    let ack = answer(&mut client, 50, DhcpMessageType::Ack, Reply::default());
    assert!(matches!(ack, Some(Event::Leased(_))), "{ack:?}");
    assert_eq!(client.refused, 0, "an offer without an address is no fault");
    client.restart(at(60));
    assert_eq!(providers(&client), [""; 0], "another link, another network");
}

#[test]
fn an_address_server_of_ours_names_it_in_its_own_answers() {
    let mut client = client_that_asks(true);
    let reply = Reply {
        extra: boot_offer(0).extra,
        ..Reply::default()
    };
    poll(&mut client, 0);
    answer(&mut client, 0, DhcpMessageType::Offer, reply.clone());
    let ack = answer(&mut client, 0, DhcpMessageType::Ack, reply);
    assert!(matches!(ack, Some(Event::Leased(_))), "{ack:?}");
    assert_eq!(providers(&client), [PROVIDER]);
}

#[test]
fn who_does_not_ask_and_who_is_not_meant_learns_of_no_provider() {
    for (asks, wrong_transaction, kind) in [
        (false, 0, DhcpMessageType::Offer),
        (true, 1, DhcpMessageType::Offer),
        (true, 0, DhcpMessageType::Nak),
    ] {
        let mut client = client_that_asks(asks);
        poll(&mut client, 0);
        let reply = boot_offer(client.transaction.wrapping_add(wrong_transaction));
        client.receive(&frame(kind, &reply), at(0), &mut Vec::new());
        assert_eq!(providers(&client), [""; 0], "{asks} {wrong_transaction}");
    }
}

#[test]
fn an_offer_and_an_ack_make_a_lease() {
    let (client, lease) = leased(Reply::default());
    assert_eq!(lease.address, Ipv4Addr::new(10, 0, 0, 50));
    assert_eq!(lease.station, SERVER_MAC);
    assert_eq!(client.lease(), Some(&lease));
}

#[test]
fn without_a_server_discover_backs_off_to_its_limit() {
    let mut client = client();
    let times: Vec<i64> = sent_until(&mut client, 0, 70_000)
        .into_iter()
        .map(|(ms, _)| ms)
        .collect();
    assert_eq!(
        times,
        [0, 1_000, 3_000, 7_000, 15_000, 31_000, 47_000, 63_000]
    );
}

#[test]
fn answers_to_somebody_else_are_nothing_to_us() {
    let mut client = client();
    poll(&mut client, 0);
    let reply = Reply {
        transaction: client.transaction ^ 1,
        ..Reply::default()
    };
    client.receive(
        &frame(DhcpMessageType::Offer, &reply),
        at(0),
        &mut Vec::new(),
    );
    assert_eq!(poll(&mut client, 1).0, [], "no REQUEST for a foreign OFFER");
}

#[test]
fn an_insane_ack_is_as_good_as_none() {
    let mut client = client();
    poll(&mut client, 0);
    answer(&mut client, 0, DhcpMessageType::Offer, Reply::default());
    let bad = Reply {
        seconds: Some(1),
        ..Reply::default()
    };
    assert_eq!(answer(&mut client, 0, DhcpMessageType::Ack, bad), None);
    assert_eq!(client.lease(), None);
    assert!(matches!(
        answer(&mut client, 1, DhcpMessageType::Ack, Reply::default()),
        Some(Event::Leased(_))
    ));
}

#[test]
fn a_lease_is_renewed_at_t1_and_keeps_its_address() {
    let t1 = Reply {
        extra: vec![(58, vec![0, 0, 0, 5])],
        ..Reply::default()
    };
    let (mut client, lease) = leased(t1.clone());
    assert_eq!(poll(&mut client, 4_999).0, []);
    // The first renewal asks for the server's hardware address.
    let mut frames = Vec::new();
    client.poll(at(5_000), &mut frames);
    assert!(
        super::super::wire::parse_arp(&frames[0]).is_some_and(|arp| arp.target == lease.server)
    );
    // Whatever way the request takes, an ACK of that transaction renews.
    client.transaction = 0;
    let sent = sent_until(&mut client, 5_000, 3_600_000 * 7 / 8 + 1_000);
    assert!(
        sent.iter()
            .any(|(_, kind)| *kind == DhcpMessageType::Request),
        "{sent:?}"
    );
    let event = answer(&mut client, 3_200_000, DhcpMessageType::Ack, t1);
    assert_eq!(event, Some(Event::Renewed(lease)));
}

#[test]
fn a_lease_that_nobody_renews_is_lost_at_its_end() {
    let (mut client, _lease) = leased(Reply::default());
    let (mut now, mut lost_at) = (0, None);
    while now < 4_000_000 && lost_at.is_none() {
        if poll(&mut client, now).1 == Some(Event::Lost) {
            lost_at = Some(now);
        }
        now = client.next_at(at(now)).total_millis().max(now + 1);
    }
    assert_eq!(lost_at, Some(3_600_000));
    assert_eq!(client.lease(), None);
}

#[test]
fn a_refusal_loses_the_lease() {
    let reply = Reply {
        seconds: Some(60),
        ..Reply::default()
    };
    let (mut client, _lease) = leased(reply.clone());
    sent_until(&mut client, 0, 53_000);
    let event = answer(&mut client, 53_000, DhcpMessageType::Nak, reply);
    assert_eq!(event, Some(Event::Lost));
}

#[test]
fn a_server_that_always_refuses_cannot_make_us_flood() {
    let mut client = client();
    let mut sent = 0;
    for ms in 0..10_000 {
        let mut frames = Vec::new();
        client.poll(at(ms), &mut frames);
        let reply = Reply::default();
        answer_into(
            &mut client,
            ms,
            DhcpMessageType::Offer,
            reply.clone(),
            &mut frames,
        );
        answer_into(&mut client, ms, DhcpMessageType::Nak, reply, &mut frames);
        sent += frames.len();
    }
    assert!(
        sent <= SEND_BURST_MAX as usize + 10,
        "{sent} frames in ten seconds"
    );
    assert!(sent >= 10, "it still tries: {sent}");
}

#[test]
fn a_server_that_wants_renewals_at_once_cannot_make_us_flood() {
    let at_once = Reply {
        extra: vec![(58, vec![0; 4])],
        ..Reply::default()
    };
    let (mut client, _lease) = leased(at_once.clone());
    let mut sent = 0;
    for ms in 0..10_000 {
        let mut frames = Vec::new();
        client.poll(at(ms), &mut frames);
        answer_into(
            &mut client,
            ms,
            DhcpMessageType::Ack,
            at_once.clone(),
            &mut frames,
        );
        sent += frames.len();
    }
    assert!(
        sent <= SEND_BURST_MAX as usize + 10,
        "{sent} frames in ten seconds"
    );
}

#[test]
fn a_declined_address_is_named_to_the_server_and_then_we_wait() {
    let (mut client, lease) = leased(Reply::default());
    let mut frames = Vec::new();
    client.decline(at(1_000), &mut frames);
    let (_, kind) = sent_dhcp(&frames[0]).unwrap();
    assert_eq!(kind, DhcpMessageType::Decline);
    let packet = &frames[0][14 + 20 + 8..];
    let packet = smoltcp::wire::DhcpPacket::new_checked(packet).unwrap();
    let requested = packet.options().find(|option| option.kind == 50).unwrap();
    assert_eq!(requested.data, lease.address.octets());
    assert_eq!(client.lease(), None);
    assert_eq!(poll(&mut client, 10_999).0, []);
    assert_eq!(client.next_at(at(1_000)), at(11_000));
    assert_eq!(poll(&mut client, 11_000).0, [DhcpMessageType::Discover]);
}

#[test]
fn a_release_goes_to_the_server_alone() {
    let (mut client, lease) = leased(Reply::default());
    let mut frames = Vec::new();
    client.release(&mut frames);
    assert_eq!(
        sent_dhcp(&frames[0]).map(|(_, kind)| kind),
        Some(DhcpMessageType::Release)
    );
    assert_eq!(&frames[0][..6], SERVER_MAC.as_bytes());
    assert_eq!(&frames[0][30..34], lease.server.octets());
    client.release(&mut frames);
    assert_eq!(frames.len(), 1, "only once");
}

#[test]
fn no_mangled_server_message_makes_the_client_panic() {
    for seed in 0..2_000_usize {
        let mut client = client();
        poll(&mut client, 0);
        for kind in [DhcpMessageType::Offer, DhcpMessageType::Ack] {
            let reply = Reply {
                transaction: client.transaction,
                extra: vec![(3, vec![10, 0, 0, 1]), (58, vec![0, 0, 0, 9])],
                ..Reply::default()
            };
            let mut bytes = frame(kind, &reply);
            let index = seed * 7 % bytes.len();
            bytes[index] = (seed * 31) as u8;
            client.receive(&bytes, at(1), &mut Vec::new());
            client.poll(at(2), &mut Vec::new());
        }
    }
}
