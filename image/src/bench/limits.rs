//! Every number of the bench, with its reason. The whole of it shall take less than twenty minutes on an idle machine, half of
//! which are the swarm's and the machines'.

use std::time::Duration;

/// Rounds, unless `--rounds` says otherwise. Each measures every contender once; the middle counts.
pub const ROUNDS: usize = 3;

/// More rounds than this take an hour.
pub const ROUNDS_MAX: usize = 50;

/// Size of the large file: a root filesystem of a usual desktop.
pub const LARGE_BYTES: u64 = 1 << 30;

/// Size of the small file: requests of it are all overhead.
pub const SMALL_BYTES: u64 = 4096;

/// Size of the file a client gets beside the crowd.
pub const MEDIUM_BYTES: u64 = 64 << 20;

/// Length of a range: what firmware and `phase-fetch` ask for is of this order.
pub const RANGE_BYTES: u64 = 1 << 20;

/// Downloads of the large file one after the other: one alone takes a quarter of a second.
pub const ONE_STREAM_DOWNLOADS: u64 = 2;

/// Connections of the bulk measurement.
pub const MANY: u32 = 16;

/// Connections of the measurement of small files.
pub const SMALL_CONNECTIONS: u32 = 64;

/// Connections of the measurement of ranges.
pub const RANGE_CONNECTIONS: u32 = 8;

/// One run of wrk. Less shows the start, more makes the bench long.
pub const WRK_SECONDS: u32 = 2;

/// A server starts in milliseconds; hashing 1 GiB under emulation takes longer.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// A server ends at once when nobody is connected.
pub const END_LIMIT: Duration = Duration::from_secs(12);

/// Between two looks at the memory of a process. A shorter peak is missed, unless the kernel keeps it.
pub const MEMORY_PERIOD: Duration = Duration::from_millis(20);

/// Between two looks at something that will be there soon.
pub const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Any one client. What takes longer is stuck.
pub const CLIENT_LIMIT: Duration = Duration::from_secs(120);

/// Any one step of an answer. Who waits longer for a seat has none.
pub const ASKER_LIMIT: Duration = Duration::from_secs(10);

/// A head of an answer is shorter.
pub const HEAD_BYTES_MAX: u64 = 16 * 1024;

/// Idle connections at once: every machine of a large site, twice.
pub const IDLE_CROWD: usize = 10_000;

/// Readers that hardly read.
pub const SLOW_CROWD: usize = 1_000;

/// Addresses the crowd comes from: no one of them has more connections than a small network behind one router.
pub const SOURCES: usize = 250;

/// Descriptors of the crowd and the servers that are no connections.
pub const FILES_SPARE: usize = 100;

/// The receive buffer of a slow reader: the smaller, the sooner the server has to wait.
pub const SLOW_BUFFER_BYTES: usize = 4096;

/// What a slow reader reads in one period.
pub const SLOW_READ_BYTES: usize = 1024;

/// Between two reads of a slow reader, in seconds.
pub const SLOW_PERIOD_S: i64 = 1;

/// Requests of a normal client beside a crowd.
pub const BESIDE_REQUESTS: usize = 100;

/// Downloads of a normal client beside a crowd.
pub const BESIDE_DOWNLOADS: usize = 5;

/// Size of each file that is hashed: half a second of a fast core.
pub const HASHED_BYTES: u64 = 512 << 20;

/// Files hashed at once: enough for the cores of a small server, and within the memory of one.
pub const HASHED_FILES_MAX: usize = 4;

/// How many ask for each manifest while it is made: the file must be hashed only once.
pub const HASHED_ASKERS: usize = 8;

/// Memory `phase-fetch` may have, whatever the size of what it fetches.
pub const FETCH_BYTES_MAX: f64 = 16e6;

/// What each of two shaped providers sends, as `tc` writes it: far less than either could.
pub const SHAPED_RATE: &str = "800mbit";

/// Size of what is fetched from them: two seconds' worth.
pub const SHAPED_BYTES: u64 = 192 << 20;

/// Requests of the two batches whose difference is counted.
pub const COUNTED_BATCHES: [u32; 2] = [10, 60];

/// Sizes of the two files whose difference is counted, in MiB. Each must be hashed fifty times slower than usual.
pub const COUNTED_MIB: [u64; 2] = [4, 12];

/// Size of the file that counted ranges are of: hashing it under valgrind takes a second.
pub const COUNTED_LARGE_BYTES: u64 = 16 << 20;

/// A normal client beside a crowd gives up after so many seconds, as curl is told.
pub const BESIDE_SECONDS: &str = "10";

/// Machines that are switched on at the same moment: a hall of racks after a power cut.
pub const STORM_MACHINES: u32 = 1_000;

/// Machines of a storm that fetch at the same moment: what a gigabit of network still serves in seconds.
pub const STORM_FETCHES: usize = 64;

/// Size of what UEFI machines boot: a kernel with a small first stage.
pub const STORM_BOOT_BYTES: u64 = 8 << 20;

/// Size of what they go on with.
pub const STORM_IMAGE_BYTES: u64 = 16 << 20;

/// Answers that wait to be read by one process for all machines of a storm.
pub const BOOTS_BUFFER_BYTES: usize = 16 << 20;

/// A storm or a fetch in it that takes longer has failed: a boot ROM gives up after a minute.
pub const BOOTS_LIMIT: Duration = Duration::from_secs(60);

/// How long a TFTP client waits before it says its last word again; EDK2 waits four seconds.
pub const TFTP_WAIT: Duration = Duration::from_secs(1);

/// Bytes of the file that is fetched over TFTP: a first stage.
pub const TFTP_BYTES: u64 = 16 << 20;

/// The same where packets are lost: servers that wait for seconds after each take ten for this.
pub const TFTP_LOSSY_BYTES: u64 = 64 << 10;

/// How many fetch at once.
pub const TFTP_MANY: usize = 64;

/// What each of them fetches.
pub const TFTP_MANY_BYTES: u64 = 1 << 20;

/// Bytes of a block: one Ethernet frame, as firmware asks for.
pub const TFTP_BLOCK: u16 = 1428;

/// How long a client waits before it says once more what it has. EDK2 waits for 4 s, other firmware for less.
pub const TFTP_CLIENT_WAIT: Duration = Duration::from_secs(2);

/// The first port of servers on a LAN of the bench; nobody else listens in its namespaces.
pub const LAN_PORT: u16 = 20_000;

/// Connections of nginx on a LAN of the bench: every host several.
pub const LAN_CONNECTIONS: u32 = 1024;

/// Hosts on a LAN of the bench: what fits into a small machine's memory as processes.
pub const LAN_HOSTS_MAX: usize = 100;

/// What a shaped link may pass at once: two of the kernel's largest packets, 10 ms at 100 Mbit/s.
pub const LAN_BURST: &str = "128kb";

/// How long a packet may wait for a shaped link before it is dropped: what a switch holds.
pub const LAN_LATENCY: &str = "50ms";

/// How many fetch the same at the same moment: one alone, then a rack of more and more.
pub const SWARM_CLIENTS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// The number of clients the goals are about.
pub const SWARM_JUDGED: usize = 16;

/// What each of them fetches, in MiB: a root filesystem.
pub const SWARM_MIB: u64 = 64;

/// What every link carries in each direction, as `tc` writes it.
pub const SWARM_RATE: &str = "100mbit";

/// Until the last of them has it: this many times what one alone takes.
pub const SWARM_TIME_MAX: f64 = 1.5;

/// And one alone: this many times what one plain download takes.
pub const SWARM_ALONE_MAX: f64 = 1.02;

/// What the origin sends, in copies of the image.
pub const SWARM_EGRESS_MAX: f64 = 2.0;

/// The port on which each of them serves.
pub const SWARM_PORT: u16 = 8080;

/// A race that takes longer is stuck: 32 plain downloads from one server take three minutes.
pub const SWARM_LIMIT: Duration = Duration::from_secs(240);

/// Machines that are switched on at once: as many as two emulated processors each leave some time for.
pub const RACK_MACHINES: usize = 4;

/// What each of their links and the provider's carries: slow enough that emulated machines wait for the links.
pub const RACK_RATE: &str = "20mbit";

/// Until the last of them serves, when they share: this many times what it takes when they do not.
pub const RACK_RATIO_MAX: f64 = 0.8;

/// One of them may take this long to serve, from the power button, when all fetch from one and nobody shares.
pub const RACK_LIMIT: Duration = Duration::from_secs(180);

/// Members of the DHT that is measured.
pub const DHT_NODES: usize = 50;

/// Those of them that provide what is looked for; the others provide something else.
pub const DHT_PROVIDERS: usize = 10;

/// Those that vanish at one moment, and as many that join instead: 30 %. They are of the others: a provider that vanished
/// must not be found.
pub const DHT_CHURN: usize = 15;

/// Lookups, before and after that.
pub const DHT_LOOKUPS: usize = 100;

/// Lookups at the same time: each is a process of its own, and most of it waits.
pub const DHT_ASKERS: usize = 4;

/// What 99 of 100 lookups stay under, the 1.25 s included in which `phase-discover` listens on the LAN alone.
pub const DHT_LOOKUP_S: f64 = 2.0;

/// From nothing to the first byte of the manifest of a provider on the LAN.
pub const COLD_MDNS_S: f64 = 1.0;

/// And of one that only the DHT knows.
pub const COLD_DHT_S: f64 = 3.0;

/// Cold discoveries of each kind.
pub const COLD_DISCOVERIES: usize = 5;

/// Before each by mDNS nobody has asked for so long. An answer is not sent again within a second of the last one
/// (RFC 6762 section 6), so that one who asks too soon after another waits for its own second question.
pub const COLD_PAUSE: Duration = Duration::from_millis(1_500);

/// One search, as `phase-discover` is told, in seconds.
pub const DISCOVER_SECONDS: &str = "10";

/// One search for all there are: it never ends before.
pub const ALL_SECONDS: &str = "3";

/// The members of a DHT have found each other by then, on a busy machine too.
pub const DHT_START_LIMIT: Duration = Duration::from_secs(60);

/// Machines that are simulated: a large data centre after a power cut.
pub const SIMULATED_MACHINES: usize = 10_000;

/// Machines of a hall in which nobody vanishes or lies: it is there for comparison, and ten times as many take a processor a
/// minute.
pub const SIMULATED_PEACEFUL: usize = 1_000;

/// Numbers of machines of the curve.
pub const SIMULATED_SIZES: [usize; 4] = [10, 100, SIMULATED_PEACEFUL, SIMULATED_MACHINES];

/// Machines of one rack.
pub const SIMULATED_RACK: usize = 40;

/// What each of them fetches, in MiB: the same as in the measured swarm.
pub const SIMULATED_MIB: u64 = SWARM_MIB;

/// Which part of the machines vanishes in halls where that happens.
pub const SIMULATED_CHURN: f64 = 0.2;

/// And which part lies.
pub const SIMULATED_LIARS: f64 = 0.1;

/// Until the last has it: this many times what is possible at all.
pub const SIMULATED_RATIO_MAX: f64 = 2.0;

/// What the origin sends, in copies of the image.
pub const SIMULATED_EGRESS_MAX: f64 = 5.0;
