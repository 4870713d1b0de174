//! What an operator decides about machines, over the control socket: one route for each decision.

use boot_manifest::Channel;
use http::StatusCode;
use pxe::Mac;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::{Answer, refusal};
use crate::machines::OrderError;
use crate::machines::orders::{Once, Order, Way};
use crate::serve::app::App;

/// What a body may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    mac: Mac,
    #[serde(default)]
    channel: Option<Channel>,
    #[serde(default)]
    local: bool,
    #[serde(default)]
    profile: Option<String>,
}

impl App {
    /// Carries out a decision. Waits for the disk: not for a thread that answers requests.
    pub(super) fn decide(&self, route: &str, body: Value) -> Answer {
        let decision: Decision = match serde_json::from_value(body) {
            Ok(decision) => decision,
            Err(error) => return refusal(StatusCode::BAD_REQUEST, &format!("the body: {error}")),
        };
        let mac = decision.mac;
        if !mac.is_machine() {
            return refusal(
                StatusCode::BAD_REQUEST,
                &format!("no machine has the address {mac}"),
            );
        }
        if route == "forget" {
            return match self.machines.forget(mac) {
                Ok(true) => (StatusCode::OK, json!({ "mac": mac, "said": "forgotten" })),
                Ok(false) => refusal(
                    StatusCode::NOT_FOUND,
                    &format!("{mac}: nothing is known of it"),
                ),
                Err(error) => failed(mac, &error),
            };
        }
        let profile = decision.profile.clone().filter(|_| route == "profile");
        if let Some(name) = &profile
            && let Err(names) = self.machines.has_profile(name)
        {
            let known = match names.is_empty() {
                true => {
                    "there are none; write them into the configuration file and reload".to_owned()
                }
                false => format!("there are {}", names.join(", ")),
            };
            let error = format!("there is no profile called {name:?}: {known}");
            return refusal(StatusCode::NOT_FOUND, &error);
        }
        let Some(change) = change(route, decision) else {
            return refusal(StatusCode::NOT_FOUND, "there is no such route");
        };
        match self.machines.order(mac, change) {
            Ok(is_changed) => {
                tracing::info!(%mac, order = route, profile, "decided about a machine");
                let said = if is_changed {
                    "done"
                } else {
                    "it was so already"
                };
                let kept = self.machines.is_kept();
                (
                    StatusCode::OK,
                    json!({ "mac": mac, "said": said, "kept": kept }),
                )
            }
            Err(error) => failed(mac, &error),
        }
    }
}

fn failed(mac: Mac, error: &OrderError) -> Answer {
    let status = match error {
        OrderError::TooMany(_) => StatusCode::INSUFFICIENT_STORAGE,
        OrderError::NotKept(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, &format!("{mac}: {error}"))
}

/// Changes what is decided about a machine.
type Change = Box<dyn FnOnce(&mut Order)>;

/// What a route does to the order of a machine.
fn change(route: &str, decision: Decision) -> Option<Change> {
    Some(match route {
        "allow" => Box::new(|order| order.is_allowed = Some(true)),
        "deny" => Box::new(|order| order.is_allowed = Some(false)),
        "local" => Box::new(|order| {
            order.way = Some(Way::Local);
            order.once = None;
        }),
        "network" => Box::new(|order| {
            order.way = Some(Way::Network);
            order.once = None;
            order.installed = None;
        }),
        "profile" => Box::new(|order| order.profile = decision.profile),
        "once" => {
            let way = match decision.local {
                true => Way::Local,
                false => Way::Network,
            };
            let channel = decision.channel;
            Box::new(move |order| order.once = Some(Once::new(way, channel)))
        }
        _ => return None,
    })
}
