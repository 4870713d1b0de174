//! What goes through, in whatever pieces it arrives.

use proptest::prelude::*;

use super::*;

/// Sends `pieces` one after the other: what went through, and the code of the refusal.
fn send(pieces: &[&[u8]]) -> (Vec<u8>, Option<&'static str>) {
    let (mut gate, mut held, mut through) = (Gate::default(), Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            match gate.pass(&held) {
                Ok(0) => break,
                Ok(size) => through.extend(held.drain(..size)),
                Err(refusal) => return (through, Some(refusal.code)),
            }
        }
    }
    (through, None)
}

fn check(bytes: &[u8], through: usize, refused: Option<&'static str>) {
    let expected = (bytes[..through].to_vec(), refused);
    assert_eq!(send(&[bytes]), expected, "{}", bytes.escape_ascii());
    let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(send(&bytewise), expected, "{}", bytes.escape_ascii());
}

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn whole_requests_go_through() {
    check(GET.as_bytes(), GET.len(), None);
    check(GET.repeat(3).as_bytes(), 3 * GET.len(), None);
    let half = format!("{GET}{}", &GET[..10]);
    check(half.as_bytes(), GET.len(), None);
}

#[test]
fn what_is_refused_stops_everything_behind_it_and_nothing_before() {
    let two = format!("{GET}GET / HTTP/1.1\r\n\r\n{GET}");
    check(two.as_bytes(), GET.len(), Some("no-host"));
    check(b"GET / HTTP/1.1\nHost: x\n\n", 0, Some("bare-lf"));
}

#[test]
fn a_body_goes_through_with_its_head_and_is_never_taken_for_a_head() {
    let smuggled = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        GET.len()
    );
    let all = format!("{smuggled}{GET}{GET}");
    check(all.as_bytes(), all.len(), None);
    // Less than the body is waited for.
    check(format!("{smuggled}GET").as_bytes(), 0, None);
    let nonsense = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n\n\n\n";
    check(nonsense.as_bytes(), nonsense.len(), None);
}

#[test]
fn a_head_whose_sender_waits_goes_through_alone() {
    let head = "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    check(head.as_bytes(), head.len(), None);
    let all = format!("{head}12345{GET}");
    check(all.as_bytes(), all.len(), None);
    check(
        format!("{head}12345\n\n").as_bytes(),
        head.len() + 5,
        Some("bare-lf"),
    );
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        requests in prop::collection::vec(prop::sample::select(vec![
            GET,
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nGET ",
            "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\n\n",
            "\r\n",
        ]), 0..6),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let bytes = requests.concat().into_bytes();
        let (mut pieces, mut rest, mut cut) = (Vec::new(), bytes.as_slice(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(send(&pieces), send(&[&bytes]));
    }
}
