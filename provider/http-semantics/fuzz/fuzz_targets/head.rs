//! Any bytes as what a connection brings in, cut into pieces by the first byte. What the gate lets through is read again by
//! the parser that hyper uses: it must find the same requests, and none that could be read in two ways.

#![no_main]

use http_semantics::gate::Gate;
use http_semantics::head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let (mut gate, mut held, mut through) = (Gate::default(), Vec::new(), Vec::new());
    let mut refused = None;
    'all: for piece in bytes.chunks(usize::from(*cut).max(1)) {
        held.extend_from_slice(piece);
        loop {
            match gate.pass(&held) {
                Ok(0) => break,
                Ok(size) => through.extend(held.drain(..size)),
                Err(refusal) => {
                    refused = Some(refusal);
                    break 'all;
                }
            }
        }
    }
    if let Some(refusal) = refused {
        assert!(refusal.status >= 400 && !refusal.text.is_empty());
        assert!(!refusal.answer(&held, std::time::UNIX_EPOCH).is_empty());
    }
    read_again(&through);
});

fn read_again(mut rest: &[u8]) {
    while !rest.is_empty() {
        let end = head::end(rest, 0)
            .expect("it passed")
            .expect("it passed whole");
        let ours = head::read(&rest[..end]).expect("it passed");
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut fields);
        let parsed = request.parse(rest).expect("what passed is refused behind");
        assert_eq!(
            parsed,
            httparse::Status::Complete(end),
            "two ends of one head"
        );
        assert_eq!(request.method, Some(ours.method));
        let uri: http::Uri = request
            .path
            .expect("complete")
            .parse()
            .expect("a target that passed");
        if ours.path != "*" {
            assert_eq!(uri.path(), ours.path);
        }
        http::Method::from_bytes(ours.method.as_bytes()).expect("a method that passed");
        let named = |name: &str| {
            let name = name.to_owned();
            move |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(&name)
        };
        let fields = request.headers.iter();
        assert_eq!(fields.clone().filter(named("transfer-encoding")).count(), 0);
        assert!(fields.clone().filter(named("host")).count() <= 1);
        let lengths: Vec<_> = fields.clone().filter(named("content-length")).collect();
        assert!(lengths.len() <= 1);
        let length = lengths.first().map_or(0, |field| {
            std::str::from_utf8(field.value)
                .expect("digits")
                .parse()
                .expect("a number")
        });
        assert_eq!(length, ours.body_size);
        for field in fields {
            http::HeaderName::from_bytes(field.name.as_bytes()).expect("a name that passed");
            http::HeaderValue::from_bytes(field.value).expect("a value that passed");
        }
        if ours.is_plain {
            assert!(ours.body_size == 0 && !ours.waits && ours.path.starts_with('/'));
        }
        let size = end + usize::try_from(ours.body_size).expect("small");
        // The sender of the last body may still be waiting.
        rest = &rest[size.min(rest.len())..];
    }
}
