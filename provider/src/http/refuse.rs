//! Answers that are no content: what is wrong and what to do, in one line for people, or as problem details (RFC 9457)
//! for programs that ask for JSON.

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT,
    HeaderValue, VARY,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_semantics::accept;
use serde_json::json;

use crate::http::answered::RequestId;
use crate::http::body::Body;
use crate::http::respond::{set, whole};

/// What is offered.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// Methods that HTTP has and that change what they are sent to, or show the request: known, and not for us.
const OTHER_METHODS: [&str; 5] = ["POST", "PUT", "DELETE", "PATCH", "TRACE"];

/// What an answer says, for whoever wants it in another form.
#[derive(Debug, Clone)]
struct Said(String);

/// A line of text for people.
pub(crate) fn text(status: StatusCode, line: &str) -> Response<Body> {
    let mut response = whole(
        status,
        "text/plain; charset=utf-8",
        Bytes::from(format!("{line}\n")),
    );
    response.extensions_mut().insert(Said(line.to_owned()));
    response
}

/// The answer to any method but GET and HEAD: what is offered (RFC 9110, 9.3.7), that this is not (15.5.6), or that
/// nobody knows what it is (15.6.2).
pub(crate) fn method(method: &Method) -> Response<Body> {
    if *method == Method::OPTIONS {
        let mut response = whole(StatusCode::OK, "", Bytes::new());
        let headers = response.headers_mut();
        headers.remove(CONTENT_TYPE);
        headers.insert(ALLOW, METHODS);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        return response;
    }
    if !OTHER_METHODS.contains(&method.as_str()) {
        return text(
            StatusCode::NOT_IMPLEMENTED,
            "this method is not known here: use GET, HEAD or OPTIONS",
        );
    }
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        "everything here is only read: use GET, HEAD or OPTIONS",
    );
    response.headers_mut().insert(ALLOW, METHODS);
    response
}

/// 412 (RFC 9110, 13.1): the fields of a content would describe this message, and are left out.
pub(crate) fn precondition() -> Response<Body> {
    text(
        StatusCode::PRECONDITION_FAILED,
        "the content is another one by now: fetch it again from its start, without the condition",
    )
}

/// 416 (RFC 9110, 15.5.17), with the size that the client did not know.
pub(crate) fn range(size: u64) -> Response<Body> {
    let line = format!("the content has {size} bytes: ask for a range within them");
    let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, &line);
    let headers = response.headers_mut();
    set(headers, CONTENT_RANGE, &format!("bytes */{size}"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// 417 when something other than `100-continue` is expected (RFC 9110, 10.1.1). HTTP/1.0 has no expectations.
pub(crate) fn expectation<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.version() < Version::HTTP_11 {
        return None;
    }
    let mut expected = request
        .headers()
        .get_all(EXPECT)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|expectation| !expectation.is_empty());
    let is_unknown = |expectation: &[u8]| !expectation.eq_ignore_ascii_case(b"100-continue");
    expected.any(is_unknown).then(|| {
        text(
            StatusCode::EXPECTATION_FAILED,
            "only `Expect: 100-continue` is understood: leave the field out",
        )
    })
}

/// Whether the connection must end with the answer, because the client waits to send a body that nobody will read.
pub(crate) fn close_unread<B: http_body::Body>(
    request: &Request<B>,
    response: &mut Response<Body>,
) {
    if request.headers().contains_key(EXPECT) && !request.body().is_end_stream() {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Gives a refusal the form that the client prefers.
pub(crate) fn suit(asked: &HeaderMap, response: &mut Response<Body>) {
    let Some(Said(detail)) = response.extensions_mut().remove::<Said>() else {
        return;
    };
    // Caches would otherwise give a program what was said to a person.
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    if !accept::prefers_json(asked) {
        return;
    }
    let status = response.status();
    let mut problem = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Refused"),
        "status": status.as_u16(),
        "detail": detail,
    });
    if let Some(RequestId { id, .. }) = response.extensions().get() {
        problem["instance"] = json!(id);
    }
    let bytes = Bytes::from(format!("{problem}\n"));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(CONTENT_LENGTH, bytes.len().into());
    *response.body_mut() = Body::Bytes(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(response: Response<Body>) -> String {
        match response.into_body() {
            Body::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn programs_get_problem_details_and_people_a_line() {
        let mut asked = HeaderMap::new();
        let mut response = text(StatusCode::NOT_FOUND, "x: not found");
        suit(&asked, &mut response);
        assert_eq!(response.headers()[VARY], "Accept");
        assert_eq!(body(response), "x: not found\n");

        asked.insert(http::header::ACCEPT, "application/json".parse().unwrap());
        let mut response = text(StatusCode::NOT_FOUND, "\"x\": not found");
        response.extensions_mut().insert(RequestId {
            id: "r1".into(),
            refused: None,
        });
        suit(&asked, &mut response);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let length = response.headers()[CONTENT_LENGTH]
            .to_str()
            .unwrap()
            .to_owned();
        let body = body(response);
        assert_eq!(length, body.len().to_string());
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        let expected = json!({
            "type": "about:blank", "title": "Not Found", "status": 404, "detail": "\"x\": not found", "instance": "r1",
        });
        assert_eq!(problem, expected);
    }

    #[test]
    fn methods_are_offered_refused_or_unknown() {
        for (name, status, allow) in [
            ("OPTIONS", 200, true),
            ("POST", 405, true),
            ("PUT", 405, true),
            ("DELETE", 405, true),
            ("PATCH", 405, true),
            ("TRACE", 405, true),
            ("BREW", 501, false),
            ("get", 501, false),
        ] {
            let response = method(&name.parse().unwrap());
            assert_eq!(response.status().as_u16(), status, "{name}");
            assert_eq!(response.headers().contains_key(ALLOW), allow, "{name}");
            assert!(response.headers().contains_key(CONTENT_LENGTH), "{name}");
        }
    }
}
