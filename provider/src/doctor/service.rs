//! The provider that runs here already, if one does.

use serde_json::Value;

use crate::doctor::finding::Finding;
use crate::doctor::limits::HEALTH_WAIT;
use crate::out::printable;
use crate::status_cmd;

/// Asks `addr` for its health. Also says whether anybody answered.
pub(super) fn check(addr: &str) -> (Finding, bool) {
    match status_cmd::health(addr, HEALTH_WAIT) {
        Ok((is_good, health)) => (judge(addr, is_good, &health), true),
        Err(error) => {
            let finding = Finding::warn(
                "service",
                printable(&error.to_string()),
                "start it: systemctl start plasmd, or plasmd serve; --addr asks another",
            );
            (finding, false)
        }
    }
}

fn judge(addr: &str, is_good: bool, health: &Value) -> Finding {
    let problems: Vec<String> = health["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|problem| Some(printable(problem.as_str()?)))
        .collect();
    match (is_good, health["status"].as_str()) {
        (true, Some("healthy")) => Finding::ok("service", format!("{addr} is healthy")),
        (false, Some(_)) => Finding::bad(
            "service",
            format!("{addr} is unhealthy: {}", problems.join("; ")),
            "mend what it names; its log has more: journalctl -u plasmd",
        ),
        _ => Finding::bad(
            "service",
            format!("{addr} is no provider: its /health says something else"),
            "another program has the port: stop it, or name the provider with --addr",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn answers() {
        let level = |is_good, health: &Value| judge("x", is_good, health).level;
        assert_eq!(level(true, &json!({"status": "healthy"})), Level::Ok);
        assert_eq!(level(false, &json!({"status": "unhealthy"})), Level::Bad);
        assert_eq!(level(true, &json!({"hello": 1})), Level::Bad);
        assert_eq!(level(false, &Value::Null), Level::Bad);
    }
}
