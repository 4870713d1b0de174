//! What the operator decided about single machines by command, and what was learned about them. This is what has to
//! survive a restart; it is kept by [`state`](crate::machines::state).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boot_manifest::Channel;
use pxe::Mac;
use pxe::boot::Style;
use serde::{Deserialize, Serialize};

use crate::machines::limits::ORDERS_MAX;

/// From where a machine is to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// From here.
    Network,
    /// From its own disk.
    Local,
    /// It is not answered.
    None,
}

impl Way {
    /// As it is written in settings.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Local => "local",
            Self::None => "none",
        }
    }

    /// The way that is called so.
    pub(crate) fn named(label: &str) -> Option<Self> {
        [Self::Network, Self::Local, Self::None]
            .into_iter()
            .find(|way| way.label() == label)
    }
}

/// One boot that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Once {
    /// From where.
    pub(crate) way: Way,
    /// The channel, when not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<Channel>,
    /// When the machine was told so first, in seconds since 1970. What it asks soon after belongs to the same boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) told: Option<u64>,
}

impl Once {
    /// The next boot.
    pub(crate) const fn new(way: Way, channel: Option<Channel>) -> Self {
        Self {
            way,
            channel,
            told: None,
        }
    }

    /// Whether it is carried out by booting `folder` (`<channel>/<arch>`), as far as it says from which channel.
    pub(crate) fn is_for(&self, folder: Option<&str>) -> bool {
        let Some(channel) = &self.channel else {
            return true;
        };
        let booted = folder.and_then(|folder| folder.split('/').next());
        booted == Some(channel.as_str())
    }
}

/// Everything that was decided about one machine, or learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Whether it is allowed (`true`) or denied (`false`) whatever else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) is_allowed: Option<bool>,
    /// From where it boots, whatever its profile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) way: Option<Way>,
    /// Its next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) once: Option<Once>,
    /// The profile that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
    /// The folder of a payload that is booted once, which it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) installed: Option<String>,
    /// What the strategy engine knows about its firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) learned: Option<Style>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Orders(BTreeMap<Mac, Order>);

/// There are more decisions than are kept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "decisions about {ORDERS_MAX} machines are kept, and there are as many: forget one, or use a profile for many"
)]
pub(crate) struct TooMany;

impl Orders {
    /// What was decided about a machine.
    pub(crate) fn get(&self, mac: Mac) -> Option<&Order> {
        self.0.get(&mac)
    }

    /// Every machine and what was decided about it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Mac, &Order)> {
        self.0.iter().map(|(mac, order)| (*mac, order))
    }

    /// Changes what was decided about a machine; whether it is something else now. An order that says nothing is forgotten.
    pub(crate) fn change(
        &mut self,
        mac: Mac,
        change: impl FnOnce(&mut Order),
    ) -> Result<bool, TooMany> {
        let before = self.0.get(&mac);
        let mut order = before.cloned().unwrap_or_default();
        change(&mut order);
        if before.unwrap_or(&Order::default()) == &order {
            return Ok(false);
        }
        if order == Order::default() {
            self.0.remove(&mac);
            return Ok(true);
        }
        if before.is_none() && self.0.len() >= ORDERS_MAX {
            // What was only learned is learned again.
            let learned = self.0.iter().find(|(_, order)| order.is_only_learned());
            let victim = learned.map(|(mac, _)| *mac).ok_or(TooMany)?;
            self.0.remove(&victim);
        }
        self.0.insert(mac, order);
        Ok(true)
    }

    /// Forgets a machine; whether there was anything to forget.
    pub(crate) fn forget(&mut self, mac: Mac) -> bool {
        self.0.remove(&mac).is_some()
    }

    /// Takes away what cannot have been written by this program.
    pub(crate) fn tidied(mut self) -> Self {
        self.0.retain(|mac, _| mac.is_machine());
        while self.0.len() > ORDERS_MAX {
            self.0.pop_last();
        }
        self
    }
}

impl Order {
    /// Notes that the machine was told to boot from its disk, this time.
    pub(crate) fn tell_disk_boot(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some(once) = &mut self.once
            && once.way == Way::Local
        {
            once.told.get_or_insert(since.as_secs());
        }
    }

    /// When the machine was told so.
    pub(crate) fn disk_boot_told(&self) -> Option<SystemTime> {
        let once = self.once.as_ref().filter(|once| once.way == Way::Local)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(once.told?))
    }

    /// Whether nobody decided anything.
    pub(crate) fn is_only_learned(&self) -> bool {
        let decided = Self {
            learned: None,
            ..self.clone()
        };
        decided == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[test]
    fn orders_come_and_go() {
        let mut orders = Orders::default();
        assert_eq!(
            orders.change(mac(1), |order| order.is_allowed = None),
            Ok(false)
        );
        assert_eq!(
            orders.change(mac(1), |order| order.is_allowed = Some(true)),
            Ok(true)
        );
        assert_eq!(
            orders.change(mac(1), |order| order.is_allowed = Some(true)),
            Ok(false)
        );
        let text = serde_json::to_string(&orders).unwrap();
        assert_eq!(text, r#"{"02:00:00:00:00:01":{"is_allowed":true}}"#);
        assert_eq!(serde_json::from_str::<Orders>(&text).unwrap(), orders);
        assert_eq!(
            orders.change(mac(1), |order| order.is_allowed = None),
            Ok(true)
        );
        assert_eq!(orders.iter().count(), 0);
        assert!(!orders.forget(mac(1)));
    }

    #[test]
    fn decisions_are_bounded_and_never_pushed_out() {
        let mut orders = Orders::default();
        let count = u32::try_from(ORDERS_MAX).unwrap();
        for number in 0..count - 1 {
            orders
                .change(mac(number), |order| order.way = Some(Way::Local))
                .unwrap();
        }
        let learned = |order: &mut Order| order.learned = Some(Style::Binl);
        orders.change(mac(count), learned).unwrap();
        // What was learned makes room, once.
        orders
            .change(mac(count + 1), |order| order.way = Some(Way::Local))
            .unwrap();
        assert_eq!(orders.get(mac(count)), None);
        assert_eq!(orders.change(mac(count + 2), learned), Err(TooMany));
        assert_eq!(orders.iter().count(), ORDERS_MAX);
    }
}
