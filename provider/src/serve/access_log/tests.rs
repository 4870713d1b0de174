//! Lines, and what happens when they cannot be written.

use std::net::IpAddr;

use http::Method;

use super::*;
use crate::http::answered::RequestId;
use crate::serve::metrics::{Reason, get};

fn answered(target: &str) -> Answered<'_> {
    Answered {
        client: IpAddr::from([192, 0, 2, 7]),
        method: &Method::GET,
        target,
        status: 206,
        promised: 20,
        sent: 10,
        took: Duration::from_micros(1_500),
        agent: Some(b"UefiHttpBoot/1.0"),
        referer: None,
        request_id: None,
        is_fast: false,
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(784_111_777_123)
}

#[test]
fn lines_are_what_readers_of_logs_expect() {
    let common = "192.0.2.7 - - [06/Nov/1994:08:49:37 +0000] \"GET /a HTTP/1.1\" 206 10";
    assert_eq!(
        line(Format::Common, &answered("/a"), "x-1", now()),
        format!("{common}\n")
    );
    assert_eq!(
        line(Format::Combined, &answered("/a"), "x-1", now()),
        format!("{common} \"-\" \"UefiHttpBoot/1.0\" x-1 1.500\n")
    );
    let json = line(Format::Json, &answered("/a"), "x-1", now());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "time": "1994-11-06T08:49:37.123Z", "client": "192.0.2.7", "method": "GET", "target": "/a",
            "status": 206, "bytes": 10, "complete": false, "seconds": 0.0015, "id": "x-1",
            "agent": "UefiHttpBoot/1.0", "fast": false,
        })
    );
    let id = RequestId {
        id: "x-1".to_owned(),
        refused: Some(Reason::NotFound),
    };
    let refused = Answered {
        request_id: Some(&id),
        ..answered("/a")
    };
    let json = line(Format::Json, &refused, "x-1", now());
    assert!(json.contains("\"refused\":\"not-found\""), "{json}");
}

#[test]
fn what_clients_say_stays_inside_its_quotes() {
    let mut nasty = answered("/\"\n\u{1b}[2J\\");
    nasty.agent = Some(b"\xff\" 200 1\r\n");
    for format in [Format::Common, Format::Combined, Format::Json] {
        let line = line(format, &nasty, "id", now());
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(!line.contains('\u{1b}') && !line.contains('\r'), "{line}");
    }
    let combined = line(Format::Combined, &nasty, "id", now());
    let bare = combined.replace("\\\\", "").replace("\\\"", "");
    assert_eq!(bare.matches('"').count(), 6, "{combined}");
    let long = "/".repeat(100_000);
    assert!(line(Format::Combined, &answered(&long), "id", now()).len() < 3_000);
}

#[test]
fn a_renamed_file_is_left_behind_when_it_is_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let metrics = Arc::new(Metrics::default());
    let log = AccessLog::open(&path, Format::Common, Arc::clone(&metrics)).unwrap();
    log.answered(&answered("/before"), "1");
    let old = folder.path().join("access.log.1");
    std::fs::rename(&path, &old).unwrap();
    log.reopen().unwrap();
    log.answered(&answered("/after"), "2");
    log.finish();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert!(read(&old).contains("/before") && !read(&old).contains("/after"));
    assert!(read(&path).contains("/after") && !read(&path).contains("/before"));
    assert_eq!(get(&metrics.access_log_lines_total), 2);
    // What comes after the end is dropped, and counted.
    log.answered(&answered("/late"), "3");
    assert_eq!(get(&metrics.access_log_dropped_total), 1);
    assert!(log.reopen().is_err());
}

#[test]
fn a_file_that_cannot_be_written_drops_lines_and_stops_nobody() {
    let metrics = Arc::new(Metrics::default());
    let full = AccessLog::open(Path::new("/dev/full"), Format::Json, Arc::clone(&metrics)).unwrap();
    for _ in 0..LOG_QUEUE_MAX * 3 {
        full.answered(&answered("/a"), "1");
    }
    full.finish();
    assert_eq!(get(&metrics.access_log_lines_total), 0);
    assert_eq!(
        get(&metrics.access_log_dropped_total),
        LOG_QUEUE_MAX as u64 * 3
    );
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    assert!(AccessLog::open(&pipe, Format::Json, metrics).is_err());
}
