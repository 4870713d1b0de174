//! Transfers, packet by packet; and with a client over a line that loses, repeats and delays.

use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::tftp::Request;

const MS: Duration = Duration::from_millis(1);

fn terms(options: &str, size: u64) -> Terms {
    let packet = format!("\0\u{1}f\0octet\0{options}");
    let request = Request::parse(packet.as_bytes()).unwrap();
    Terms::agree(&request.options, size, 1468)
}

fn start(options: &str, size: u64) -> (Session, Step) {
    Session::start(terms(options, size), size, Duration::ZERO)
}

fn ack(block: u64) -> Vec<u8> {
    [&[0, 4][..], &wire_number(block).to_be_bytes()].concat()
}

fn data(first: u64, count: u16) -> Step {
    Step::Data(Blocks { first, count })
}

const CONFIRMED: Step = Step::End(End::Sent { is_confirmed: true });

#[test]
fn a_file_without_options_goes_block_by_block() {
    let (mut session, step) = start("", 1025);
    assert_eq!(step, data(1, 1));
    assert_eq!(session.received(&ack(1), MS), data(2, 1));
    assert_eq!(session.received(&ack(2), MS), data(3, 1));
    let last = Blocks { first: 3, count: 1 };
    assert_eq!(
        (session.place(last), session.is_end(last)),
        ((1024, 1), true)
    );
    assert_eq!(session.received(&ack(3), MS), CONFIRMED);
    assert_eq!(session.acknowledged_bytes(), 1025);
    assert_eq!(session.received(&ack(3), MS), Step::Wait);
}

#[test]
fn a_full_last_block_is_followed_by_an_empty_one() {
    for (size, blocks) in [(0, 1), (511, 1), (512, 2), (1024, 3)] {
        let (session, _) = start("", size);
        assert_eq!(session.last, blocks, "{size}");
        let (offset, length) = session.place(Blocks {
            first: blocks,
            count: 1,
        });
        assert_eq!((offset + length as u64, length as u64), (size, size % 512));
    }
}

#[test]
fn options_are_acknowledged_before_the_first_block() {
    let (mut session, step) = start("blksize\x001000\0windowsize\x004\0", 10_000);
    assert_eq!(step, Step::Oack);
    assert_eq!(session.oack(), b"\0\x06blksize\x001000\0windowsize\x004\0");
    assert_eq!(session.received(&ack(1), MS), Step::Wait, "not sent yet");
    assert_eq!(session.received(&ack(0), MS), data(1, 4));
    assert_eq!(session.received(&ack(4), MS), data(5, 4));
    assert_eq!(session.received(&ack(8), MS), data(9, 3));
    assert_eq!(session.place(Blocks { first: 9, count: 3 }), (8000, 2000));
    assert_eq!(session.received(&ack(11), MS), CONFIRMED);
}

// C27
#[test]
fn leaving_with_the_size_is_no_failure() {
    const ABORT: &[u8] = b"\0\x05\0\0User aborted download\0";
    let (mut session, _) = start("tsize\x000\0", 10_000);
    assert_eq!(session.received(ABORT, MS), Step::End(End::SizeTold));
    // A ROM that aborts a moment later.
    let (mut session, _) = start("tsize\x000\0", 10_000);
    session.received(&ack(0), MS);
    assert_eq!(session.received(ABORT, MS), Step::End(End::SizeTold));
    // Leaving without a word, and closing the port.
    let (mut session, _) = start("tsize\x000\0", 10_000);
    assert_eq!(session.expired(30_000 * MS), Step::End(End::SizeTold));
    let (mut session, _) = start("tsize\x000\0", 10_000);
    assert_eq!(session.unreachable(), End::SizeTold);
    // In the middle it is one, and so is a client that does not like the answer.
    let (mut session, _) = start("tsize\x000\0", 10_000);
    session.received(&ack(0), MS);
    session.received(&ack(1), MS);
    let aborted = |code, text: &str| {
        Step::End(End::Aborted {
            code,
            text: text.to_owned(),
        })
    };
    assert_eq!(
        session.received(ABORT, MS),
        aborted(0, "User aborted download")
    );
    let (mut session, _) = start("tsize\x000\0", 10_000);
    assert_eq!(session.received(b"\0\x05\0\x08no\n", MS), aborted(8, "no "));
    let (mut session, _) = start("tsize\x000\0", 10_000);
    session.received(&ack(0), MS);
    session.received(&ack(1), MS);
    assert_eq!(session.received(b"\0\x05", MS), aborted(0, ""));
}

// C31
#[test]
fn silence_is_answered_by_the_same_ever_later_and_ends() {
    let (mut session, _) = start("blksize\x001000\0", 10_000);
    session.received(&ack(0), Duration::ZERO);
    let mut times = Vec::new();
    let end = loop {
        let now = session.deadline();
        match session.expired(now) {
            Step::Data(_) => times.push(now.as_millis()),
            Step::End(end) => break end,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(end, End::Silent);
    let first = [20, 60, 140, 300, 620, 1_260, 2_540, 5_100];
    assert_eq!(times[..8], first);
    assert_eq!(times[8..], [9_100, 13_100, 17_100, 21_100, 25_100, 29_100]);
    let (mut session, _) = start("", 10_000);
    assert_eq!(session.expired(249 * MS), Step::Wait);
    assert_eq!(session.expired(250 * MS), data(1, 1));
    assert_eq!(session.resent_blocks(), 1);
    assert_eq!(session.received(&ack(1), 251 * MS), data(2, 1));
}

/// A request with a forged sender makes somebody else get the answers.
#[test]
fn who_never_said_anything_gets_little_and_not_for_long() {
    for options in ["", "blksize\x001000\0", "timeout\x001\0windowsize\x0064\0"] {
        let (mut session, first) = start(options, 100_000);
        assert!(session.is_unheard());
        let mut times = Vec::new();
        let end = loop {
            let now = session.deadline();
            match session.expired(now) {
                Step::End(end) => break end,
                step => assert_eq!(step, first),
            }
            times.push(now);
        };
        assert_eq!(end, End::Silent, "{options:?}");
        assert_eq!(times.len(), 4, "{options:?}");
        assert!(session.deadline() < Duration::from_secs(8), "{options:?}");
    }
}

#[test]
fn a_client_goes_on_for_as_long_as_it_was_just_heard() {
    let (mut session, _) = start("blksize\x001000\0", 10_000);
    assert!(!session.is_going_on(MS));
    session.received(&ack(0), 2 * MS);
    assert!(session.is_going_on(3 * MS) && !session.is_unheard());
    assert!(!session.is_going_on(1_002 * MS));
    session.received(&ack(1), 1_002 * MS);
    assert!(session.is_going_on(2_001 * MS));
}

#[test]
fn nobody_waits_long_for_the_last_acknowledgement() {
    let (mut session, _) = start("", 100);
    let end = loop {
        if let Step::End(end) = session.expired(session.deadline()) {
            break end;
        }
    };
    assert_eq!(
        end,
        End::Sent {
            is_confirmed: false
        }
    );
    assert!(session.deadline() < 10_000 * MS);
    let (mut session, _) = start("", 100);
    assert_eq!(
        session.unreachable(),
        End::Sent {
            is_confirmed: false
        }
    );
    let (mut session, _) = start("", 1000);
    assert_eq!(session.unreachable(), End::Gone);
}

// C29
#[test]
fn an_acknowledgement_that_was_there_before_sends_nothing() {
    let (mut session, _) = start("", 5_000);
    assert_eq!(session.received(&ack(1), MS), data(2, 1));
    for _ in 0..10 {
        assert_eq!(session.received(&ack(1), 2 * MS), Step::Wait);
        assert_eq!(session.received(&ack(0), 2 * MS), Step::Wait);
        assert_eq!(session.received(&ack(3), 2 * MS), Step::Wait);
    }
    // It is believed when nothing better comes.
    assert_eq!(session.deadline(), 4 * MS);
    assert_eq!(session.expired(4 * MS), data(2, 1));
}

// C29
#[test]
fn a_window_begins_again_behind_what_arrived() {
    let (mut session, _) = start("windowsize\x008\0", 50_000);
    assert_eq!(session.received(&ack(0), MS), data(1, 8));
    assert_eq!(session.received(&ack(3), MS), data(4, 8));
    assert_eq!(session.resent_blocks(), 5);
    // Those behind the hole were acknowledged as well, one by one.
    for _ in 0..4 {
        assert_eq!(session.received(&ack(3), MS), Step::Wait);
    }
    assert_eq!(session.received(&ack(11), MS), data(12, 8));
}

// C30
#[test]
fn the_counter_goes_round() {
    let size = 200_000 * 512;
    let (mut session, _) = start("", size);
    for block in 1..=200_000_u64 {
        assert_eq!(session.received(&ack(block), MS), data(block + 1, 1));
    }
    assert_eq!(session.received(&ack(200_001), MS), CONFIRMED);
    assert_eq!(Session::header(65_535), [0, 3, 255, 255]);
    assert_eq!(Session::header(65_536), [0, 3, 0, 0]);
    assert_eq!(Session::header(65_537), [0, 3, 0, 1]);
    // In the middle of a window.
    let (mut session, _) = start("windowsize\x0064\0", size);
    session.received(&ack(0), MS);
    let mut at = 0;
    while at + 64 < 65_536 + 64 {
        at += 60;
        assert_eq!(session.received(&ack(at), MS), data(at + 1, 64));
    }
}

#[test]
fn a_request_that_comes_twice_is_one_request() {
    let (mut session, _) = start("tsize\x000\0", 5_000);
    assert_eq!(session.asked_again(MS), Step::Oack);
    session.received(&ack(0), MS);
    assert_eq!(session.asked_again(MS), data(1, 1));
    session.received(&ack(1), MS);
    assert_eq!(session.asked_again(MS), Step::Wait);
}

/// A client as RFC 7440 has it, and a line whose faults come from a seed.
struct Line {
    random: u64,
    lost_percent: u64,
    /// Packets on their way: when they arrive, and whether to the client.
    packets: VecDeque<(Duration, bool, u64)>,
    now: Duration,
    busy_until: Duration,
}

impl Line {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn send(&mut self, to_client: bool, block: u64) {
        if self.random() % 100 < self.lost_percent {
            return;
        }
        let copies = if self.random() % 100 < self.lost_percent / 2 {
            2
        } else {
            1
        };
        // One after the other, and some late.
        let late = u64::from(self.random() % 100 < self.lost_percent / 4) * 300;
        let free = self.busy_until.max(self.now);
        self.busy_until = free + Duration::from_micros(2);
        for _ in 0..copies {
            let arrives = self.busy_until + Duration::from_micros(100 + late);
            self.packets.push_back((arrives, to_client, block));
        }
    }

    fn next(&mut self) -> Option<(Duration, bool, u64)> {
        let (at, _) = self
            .packets
            .iter()
            .enumerate()
            .min_by_key(|(_, packet)| packet.0)?;
        self.packets.remove(at)
    }
}

/// How often blocks were sent for a file of `blocks`, and how long it took.
fn transfer(lost_percent: u64, window: u64, blocks: u64, seed: u64) -> (u64, Duration) {
    let size = (blocks - 1) * 512 + 5;
    let (mut session, first) = start(&format!("windowsize\x00{window}\0"), size);
    let mut line = Line {
        random: seed,
        lost_percent,
        packets: VecDeque::new(),
        now: Duration::ZERO,
        busy_until: Duration::ZERO,
    };
    let (mut has, mut since_ack, mut sent) = (0, 0, 0);
    let client_wait = Duration::from_secs(1);
    let mut client_deadline = client_wait;
    let mut step = first;
    loop {
        match step {
            Step::Data(Blocks { first, count }) => {
                sent += u64::from(count);
                assert!(u64::from(count) <= window);
                for block in first..first + u64::from(count) {
                    line.send(true, block);
                }
            }
            Step::Oack => line.send(true, 0),
            Step::End(end) => {
                assert!(matches!(end, End::Sent { .. }), "{end:?}, seed {seed}");
                assert_eq!(has, blocks, "seed {seed}");
                return (sent, line.now);
            }
            Step::Wait => {}
        }
        let timer = if has == blocks {
            session.deadline()
        } else {
            session.deadline().min(client_deadline)
        };
        let packet = line.packets.iter().map(|packet| packet.0).min();
        line.now = packet.unwrap_or(timer).min(timer);
        assert!(line.now < Duration::from_secs(600), "stuck, seed {seed}");
        step = Step::Wait;
        if packet.is_none_or(|at| timer < at) {
            if timer == session.deadline() {
                step = session.expired(line.now);
            } else {
                client_deadline = line.now + client_wait;
                line.send(false, has);
            }
            continue;
        }
        match line.next() {
            Some((_, true, block)) => {
                client_deadline = line.now + client_wait;
                let is_next = block == has + 1;
                has += u64::from(is_next);
                since_ack = if is_next { since_ack + 1 } else { 0 };
                if !is_next || since_ack == window || has == blocks {
                    since_ack = 0;
                    line.send(false, has);
                }
            }
            Some((_, false, block)) => step = session.received(&ack(block), line.now),
            None => unreachable!("a packet has arrived"),
        }
    }
}

#[test]
fn every_file_arrives_over_a_line_that_loses_and_repeats() {
    // Of 2,000 blocks; each line is the sum of five transfers. With no faults nothing is sent twice, and with faults there is
    // no apprentice: with one lost in a hundred, far less than everything is sent again.
    let expected = "\
        lost  0 % window  1:   0 % sent again,    408 ms\n\
        lost  0 % window  4:   0 % sent again,    105 ms\n\
        lost  0 % window 16:   0 % sent again,     29 ms\n\
        lost  1 % window  1:   2 % sent again,   1272 ms\n\
        lost  1 % window  4:   4 % sent again,    311 ms\n\
        lost  1 % window 16:  10 % sent again,     77 ms\n\
        lost  5 % window  1:  10 % sent again,   5062 ms\n\
        lost  5 % window  4:  28 % sent again,    963 ms\n\
        lost  5 % window 16:  82 % sent again,    122 ms\n\
        lost 20 % window  1:  52 % sent again,  39028 ms\n\
        lost 20 % window  4: 124 % sent again,   4700 ms\n\
        lost 20 % window 16: 403 % sent again,    339 ms\n";
    let mut table = String::new();
    for lost in [0, 1, 5, 20] {
        for window in [1, 4, 16] {
            let (mut sent, mut took) = (0, Duration::ZERO);
            for seed in 1..=5 {
                let (blocks, time) = transfer(lost, window, 2_000, seed * 0x9e37_79b9);
                sent += blocks;
                took += time;
            }
            let more = (sent * 100 / 10_000) - 100;
            table += &format!(
                "lost {lost:2} % window {window:2}: {more:3} % sent again, {:6} ms\n",
                took.as_millis() / 5
            );
        }
    }
    assert_eq!(table, expected, "\n{table}");
}

// C29
#[test]
fn a_client_that_had_everything_gets_nothing_twice_more() {
    let (mut session, _) = start("windowsize\x004\0", 50_000);
    assert_eq!(session.received(&ack(0), MS), data(1, 4));
    // A repeated packet makes the client acknowledge too early; the rest was on its way.
    assert_eq!(session.received(&ack(2), 2 * MS), data(3, 4));
    assert_eq!(session.received(&ack(4), 4 * MS), data(7, 2));
    assert_eq!(session.received(&ack(8), 6 * MS), data(9, 4));
    assert_eq!(session.resent_blocks(), 2);
}
