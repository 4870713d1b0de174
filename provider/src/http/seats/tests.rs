//! Who gets a place, and who leaves, with a clock that only moves when it is told to.

use tokio::task::JoinHandle;

use super::*;
use crate::http::limits::WRITE_STALL_MAX;

const CAPS: Caps = Caps {
    total: 4,
    encrypted: 2,
    per_address: 3,
    counts_loopback: true,
    stall_max: WRITE_STALL_MAX,
};

/// Seats under a sweeping clock.
struct Room {
    seats: Arc<Seats>,
    metrics: Arc<Metrics>,
    sweeping: JoinHandle<()>,
}

/// Somebody who sits there until told to leave.
struct Guest {
    place: Arc<Place>,
    task: JoinHandle<()>,
}

impl Room {
    fn new(caps: Caps) -> Self {
        let (seats, metrics) = (Seats::new(caps), Arc::new(Metrics::default()));
        let sweeping = tokio::spawn(Arc::clone(&seats).sweep(Arc::clone(&metrics)));
        Self {
            seats,
            metrics,
            sweeping,
        }
    }

    fn enter(&self, client: &str, waits: Waits) -> Result<Guest, Full> {
        self.enter_as(client, false, waits)
    }

    fn enter_as(&self, client: &str, is_encrypted: bool, waits: Waits) -> Result<Guest, Full> {
        let client = client.parse().unwrap();
        let place = Arc::new(self.seats.take(client, is_encrypted, &self.metrics)?);
        assert!(place.waits(waits));
        let sits = Arc::clone(&place);
        let task = tokio::spawn(async move {
            let _sits = sits;
            std::future::pending().await
        });
        self.seats.seat_task(place.id(), task.abort_handle());
        Ok(Guest { place, task })
    }

    fn cuts(&self, cut: Cut) -> u64 {
        self.metrics.cuts_total(cut)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.sweeping.abort();
    }
}

impl Guest {
    async fn was_ended(self) -> bool {
        // Whatever was told to end, does within this.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.task.is_finished()
    }
}

async fn later(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn silent_clients_make_room_the_longest_silent_first() {
    let room = Room::new(CAPS);
    let served = room.enter("10.0.0.1", Waits::Busy).unwrap();
    let mut silent = Vec::new();
    for client in ["10.0.0.2", "10.0.0.3", "10.0.0.4"] {
        later(2).await;
        silent.push(room.enter(client, Waits::Idle).unwrap());
    }
    // All of them are within one batch.
    assert_eq!(room.enter("10.0.0.5", Waits::Busy).err(), Some(Full::All));
    for guest in silent {
        assert!(guest.was_ended().await);
    }
    assert!(!served.was_ended().await);
    assert_eq!(room.cuts(Cut::Idle), 3);
}

#[tokio::test(start_paused = true)]
async fn who_has_many_places_gives_before_who_has_few() {
    let room = Room::new(Caps {
        total: 40,
        per_address: 40,
        ..CAPS
    });
    let firmware = room.enter("10.0.0.1", Waits::Idle).unwrap();
    later(5).await;
    let crowd: Vec<_> = (0..39)
        .map(|_| room.enter("10.0.0.2", Waits::Idle).unwrap())
        .collect();
    for _ in 0..2 {
        later(1).await;
        assert_eq!(room.enter("10.0.0.3", Waits::Busy).err(), Some(Full::All));
        for guest in &crowd {
            guest.place.idles_anew();
        }
    }
    assert!(!firmware.was_ended().await);
    assert_eq!(room.cuts(Cut::Idle), 2 * ROOM_BATCH as u64);
}

#[tokio::test(start_paused = true)]
async fn nobody_who_is_served_makes_room() {
    let room = Room::new(CAPS);
    let served: Vec<_> = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
        .map(|client| room.enter(client, Waits::Busy).unwrap())
        .into();
    assert_eq!(room.enter("10.0.0.5", Waits::Busy).err(), Some(Full::All));
    assert_eq!(room.seats.taken(), 4);
    for guest in served {
        assert!(!guest.was_ended().await);
    }
}

#[tokio::test(start_paused = true)]
async fn encrypted_ones_have_fewer_places_and_only_make_room_for_each_other() {
    let room = Room::new(CAPS);
    let plain = room.enter("10.0.0.1", Waits::Idle).unwrap();
    let first = room.enter_as("10.0.0.2", true, Waits::Idle).unwrap();
    let second = room.enter_as("10.0.0.3", true, Waits::Busy).unwrap();
    let third = room.enter_as("10.0.0.4", true, Waits::Busy).err();
    assert_eq!(third, Some(Full::All));
    assert!(!plain.was_ended().await);
    assert!(!second.was_ended().await);
    assert!(first.was_ended().await);
    assert!(room.enter_as("10.0.0.4", true, Waits::Busy).is_ok());
    assert!(room.enter("10.0.0.5", Waits::Busy).is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_address_has_its_share() {
    let room = Room::new(Caps { total: 5, ..CAPS });
    let mut guests: Vec<_> = ["2001:db8::1", "2001:db8::2", "2001:db8::3"]
        .map(|client| room.enter(client, Waits::Busy).unwrap())
        .into();
    let refused = room.enter("2001:db8::4", Waits::Busy).err();
    assert_eq!(refused, Some(Full::Address));
    // Another network is another client.
    drop(room.enter("2001:db8:0:1::1", Waits::Busy).unwrap());
    // Its own silent connection makes room, not somebody else's.
    later(1).await;
    let idle = guests.pop().unwrap();
    idle.place.waits(Waits::Idle);
    let next = room.enter("2001:db8::4", Waits::Busy).unwrap();
    assert!(idle.was_ended().await);
    assert!(!next.was_ended().await);
}

#[tokio::test(start_paused = true)]
async fn this_machine_has_no_share_unless_asked_for() {
    let room = Room::new(Caps {
        counts_loopback: false,
        ..CAPS
    });
    let guests: Vec<_> = (0..4)
        .map(|_| room.enter("127.0.0.1", Waits::Busy))
        .collect();
    assert!(guests.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn deadlines_depend_on_what_is_waited_for() {
    for (waits, wait_max, cut) in [
        (Waits::Idle, IDLE_MAX, Cut::Idle),
        (Waits::Head, HEAD_WAIT_MAX, Cut::Head),
        (Waits::Write, WRITE_STALL_MAX, Cut::Write),
    ] {
        let room = Room::new(CAPS);
        later(1).await;
        let guest = room.enter("10.0.0.1", waits).unwrap();
        tokio::time::sleep(wait_max - Duration::from_millis(10)).await;
        // Waiting for the same is no news.
        assert!(guest.place.waits(waits));
        assert_eq!(room.cuts(cut), 0, "{waits:?}");
        tokio::time::sleep(SWEEP_PERIOD * 2).await;
        assert_eq!(room.cuts(cut), 1, "{waits:?}");
        assert!(!guest.place.waits(Waits::Busy), "{waits:?}");
        assert!(guest.was_ended().await, "{waits:?}");
    }
    let room = Room::new(CAPS);
    let busy = room.enter("10.0.0.1", Waits::Busy).unwrap();
    later(86_400).await;
    assert!(!busy.was_ended().await);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_drips_makes_room_and_a_slow_one_does_not() {
    let room = Room::new(CAPS);
    let [drips, slow] =
        ["10.0.0.1", "10.0.0.2"].map(|client| room.enter(client, Waits::Write).unwrap());
    for _ in 0..2 * RATE_WINDOW.as_secs() {
        later(1).await;
        for (guest, bytes) in [(&drips, 100), (&slow, 2 * RATE_MIN)] {
            guest.place.waits(Waits::Busy);
            guest.place.sent(bytes);
            guest.place.waits(Waits::Write);
        }
    }
    room.seats.relieve(&room.metrics);
    assert!(drips.was_ended().await);
    assert!(!slow.was_ended().await);
    assert_eq!(room.cuts(Cut::Slow), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_idle_at_once() {
    let room = Room::new(CAPS);
    let idle = room.enter("10.0.0.1", Waits::Idle).unwrap();
    let begun = room.enter("10.0.0.2", Waits::Head).unwrap();
    room.seats.stop();
    assert!(idle.was_ended().await);
    assert!(!begun.was_ended().await);
    assert!(room.seats.is_stopping());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_told_of_late_leaves_too() {
    let room = Room::new(CAPS);
    let place = room
        .seats
        .take("10.0.0.1".parse().unwrap(), false, &room.metrics)
        .unwrap();
    place.waits(Waits::Idle);
    room.seats.stop();
    let task = tokio::spawn(std::future::pending::<()>());
    room.seats.seat_task(place.id(), task.abort_handle());
    assert!(task.await.unwrap_err().is_cancelled());
}
