//! Files over sockets of this machine, by reference and by copy.

use std::future::poll_fn;
use std::io::{Seek as _, Write as _};
use std::time::Duration;

use artifact_store::Store;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::drain::unacknowledged;
use super::*;
use crate::http::limits::{DRAIN_LOOK_MAX, TURN_SIZE};

const SIZE: usize = 12 << 20;

struct Desk {
    dir: tempfile::TempDir,
    ours: TcpStream,
    theirs: TcpStream,
}

impl Desk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("stable/x86_64");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("vmlinuz"), content()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        Self {
            dir,
            ours: ours.unwrap(),
            theirs: theirs.unwrap().0,
        }
    }

    fn outgoing(&self, refers: bool, start: u64, end: u64) -> Outgoing {
        let store = Store::open(self.dir.path()).unwrap();
        let name = "vmlinuz".parse().unwrap();
        let file = store
            .find(&"stable".parse().unwrap(), "x86_64", &name)
            .unwrap();
        let mut outgoing = Outgoing {
            cannot_refer: !refers,
            ..Outgoing::default()
        };
        outgoing.push(Bytes::from_static(b"head"));
        outgoing.push_body(Body::file(file, start, end));
        outgoing.push(Bytes::from_static(b"end"));
        outgoing
    }
}

fn content() -> Vec<u8> {
    // No two places within it look alike to a mistake of a power of two.
    let block: Vec<u8> = (0..65_537_u32)
        .map(|n| (n * 7 / 5).to_le_bytes()[0])
        .collect();
    let mut content = block.repeat(SIZE / block.len() + 1);
    content.truncate(SIZE);
    content
}

/// Sends until everything is, calling `stuck` whenever the client must take something first.
async fn send(
    outgoing: &mut Outgoing,
    stream: &mut TcpStream,
    mut stuck: impl FnMut(),
) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let sent = poll_fn(|context| match outgoing.poll(stream, context, TURN_SIZE) {
            Ok(Sent::Stuck(0)) => {
                stuck();
                Poll::Pending
            }
            other => Poll::Ready(other),
        });
        match sent.await? {
            Sent::All(sent) => return Ok(total + sent),
            Sent::Some(sent) | Sent::Stuck(sent) => total += sent,
            Sent::Draining(sent, drained) => {
                total += sent;
                stuck();
                tokio::time::sleep(drained.again).await;
            }
        }
    }
}

#[tokio::test]
async fn both_give_the_bytes_of_the_file() {
    let content = content();
    for range in [0..SIZE, 5..6, 1..SIZE - 1, 7..FRAME_SIZE + 8] {
        for refers in [true, false] {
            let mut desk = Desk::new().await;
            let mut outgoing = desk.outgoing(refers, range.start as u64, range.end as u64);
            let mut received = Vec::new();
            let sending = async {
                let sent = send(&mut outgoing, &mut desk.ours, || {}).await.unwrap();
                drop(desk.ours);
                sent
            };
            let (sent, read) = tokio::join!(sending, desk.theirs.read_to_end(&mut received));
            read.unwrap();
            let expected = [b"head", &content[range.clone()], b"end"].concat();
            assert_eq!(sent, expected.len() as u64);
            assert!(received == expected, "{range:?}, {refers}");
        }
    }
}

#[tokio::test]
async fn nobody_gets_the_end_of_a_file_that_was_overwritten() {
    for refers in [true, false] {
        let mut desk = Desk::new().await;
        let mut outgoing = desk.outgoing(refers, 0, SIZE as u64);
        let path = desk.dir.path().join("stable/x86_64/vmlinuz");
        let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        // Nobody reads before it is overwritten, so all of it cannot have left.
        let began = tokio::sync::Notify::new();
        let mut overwritten = false;
        let sending = async {
            let result = send(&mut outgoing, &mut desk.ours, || {
                if !std::mem::replace(&mut overwritten, true) {
                    file.rewind().unwrap();
                    file.write_all(&[0xff; 1 << 20]).unwrap();
                    began.notify_one();
                }
            });
            let result = result.await;
            drop(desk.ours);
            result
        };
        let mut received = Vec::new();
        let reading = async {
            began.notified().await;
            // A reset may come after the bytes.
            let _ = desk.theirs.read_to_end(&mut received).await;
        };
        let (result, ()) = tokio::join!(sending, reading);
        assert!(result.is_err(), "{refers}: {result:?}");
        assert!(received.len() < SIZE, "{refers}: {}", received.len());
    }
}

#[tokio::test]
async fn what_a_client_has_not_taken_is_not_acknowledged() {
    let mut desk = Desk::new().await;
    let mut outgoing = desk.outgoing(true, 0, SIZE as u64);
    let mut sent = 0;
    while let Sent::Some(more) | Sent::Stuck(more @ 1..) =
        poll_fn(|context| Poll::Ready(outgoing.poll(&mut desk.ours, context, TURN_SIZE)))
            .await
            .unwrap()
    {
        sent += more;
    }
    assert!(
        sent < SIZE as u64 && unacknowledged(&desk.ours).unwrap() > 0,
        "{sent}"
    );
    assert_eq!(unacknowledged(&desk.theirs).unwrap(), 0);
}

/// The end of a file of which the rest went by reference, to a client that has not taken it.
async fn draining(desk: &mut Desk) -> Outgoing {
    desk.ours.writable().await.unwrap();
    while desk.ours.try_write(&[0; 1 << 16]).is_ok() {}
    let mut outgoing = desk.outgoing(true, 0, HELD_END);
    outgoing.advance(4);
    outgoing.behind = Some(0);
    let sent =
        poll_fn(|context| Poll::Ready(outgoing.poll(&mut desk.ours, context, TURN_SIZE))).await;
    assert!(matches!(sent, Ok(Sent::Draining(0, _))), "{sent:?}");
    outgoing
}

#[tokio::test]
async fn only_the_very_last_bytes_wait() {
    let mut desk = Desk::new().await;
    // More than the other side takes in by itself, and less than this one has room for.
    let before = 1 << 19;
    socket2::SockRef::from(&desk.theirs)
        .set_recv_buffer_size(1 << 14)
        .unwrap();
    desk.ours.writable().await.unwrap();
    assert_eq!(desk.ours.try_write(&vec![0; before]).unwrap(), before);
    let mut outgoing = desk.outgoing(true, 0, REFERRED_END);
    outgoing.advance(4);
    outgoing.behind = Some(0);
    let look = poll_fn(|context| Poll::Ready(outgoing.poll(&mut desk.ours, context, TURN_SIZE)));
    let Ok(Sent::Draining(sent, _)) = look.await else {
        panic!("nothing waits");
    };
    assert_eq!(sent, REFERRED_END - HELD_END);
    assert_eq!(outgoing.behind, Some(sent));
    // What was copied may still be on its way when the rest leaves.
    desk.theirs
        .read_exact(&mut vec![0; before + 1])
        .await
        .unwrap();
    let rest = send(&mut outgoing, &mut desk.ours, || {}).await.unwrap();
    assert_eq!(rest, HELD_END + 3);
}

#[tokio::test]
async fn waiting_for_a_client_costs_less_the_longer_it_takes() {
    let mut desk = Desk::new().await;
    let mut outgoing = draining(&mut desk).await;
    let mut look = || {
        let mut waker = Context::from_waker(std::task::Waker::noop());
        match outgoing
            .poll(&mut desk.ours, &mut waker, TURN_SIZE)
            .unwrap()
        {
            Sent::Draining(0, drained) => Some(drained),
            Sent::All(_) | Sent::Some(_) | Sent::Stuck(_) => None,
            other @ Sent::Draining(..) => panic!("{other:?}"),
        }
    };
    tokio::time::sleep(Duration::from_millis(40)).await;
    let again = look().unwrap().again;
    assert!((Duration::from_millis(10)..=DRAIN_LOOK_MAX).contains(&again));
    // Who takes something shows it; in the end the rest is sent.
    let (mut acknowledged, mut room) = (0, vec![0; 1 << 20]);
    while let Some(drained) = look() {
        acknowledged += drained.acknowledged;
        let read = desk.theirs.read(&mut room);
        // Nothing may be there for the moment.
        let _ = tokio::time::timeout(Duration::from_millis(1), read).await;
    }
    assert!(acknowledged > 0);
}

#[tokio::test]
async fn a_client_that_resets_is_not_waited_for() {
    let mut desk = Desk::new().await;
    let mut outgoing = draining(&mut desk).await;
    // Over unread bytes this is a reset.
    drop(desk.theirs);
    let began = std::time::Instant::now();
    loop {
        let sent =
            poll_fn(|context| Poll::Ready(outgoing.poll(&mut desk.ours, context, TURN_SIZE))).await;
        match sent {
            Err(_) => break,
            Ok(sent) => assert!(began.elapsed().as_secs() < 10, "{sent:?}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_piece_that_is_not_long_is_copied() {
    let mut desk = Desk::new().await;
    let mut outgoing = desk.outgoing(true, 0, REFERRED_MIN - 1);
    let mut received = Vec::new();
    let sending = async {
        loop {
            let sent =
                poll_fn(|context| Poll::Ready(outgoing.poll(&mut desk.ours, context, TURN_SIZE)));
            let sent = sent.await.unwrap();
            assert_eq!(outgoing.behind, None);
            if matches!(sent, Sent::All(_)) {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(desk.ours);
    };
    let ((), read) = tokio::join!(sending, desk.theirs.read_to_end(&mut received));
    read.unwrap();
    assert_eq!(received.len() as u64, 7 + REFERRED_MIN - 1);
}
