//! What is told about remote secrets.

use super::View;
use crate::{
    facts::{MemberFacts, Obstacle},
    istio::Plane,
    names::ClusterName,
    plan::{collision, takes},
    remote::{SYNC_DEADLINE, SecretFacts, Step, Synced, secret_name},
};

impl View<'_> {
    /// What is to be known about the remote secrets of this member besides, or the first thing that is the matter with one.
    pub(super) fn remotes(&self) -> Result<Vec<String>, Obstacle> {
        let mut notes = Vec::new();
        for (region, pair) in self.pairs {
            if let Some(why) = collision(self.seat, self.member, (region, self.regions)) {
                return Err(why);
            }
            notes.extend(self.remote(region, &pair.step)?);
        }
        if self.seat.plane == Plane::Istio && !self.pairs.is_empty() {
            notes.extend(takes(self.member).note().map(str::to_owned));
        }
        Ok(notes)
    }

    fn remote(&self, region: &ClusterName, step: &Step) -> Result<Option<String>, Obstacle> {
        let known = &self.member.remote;
        let name = secret_name(region);
        let hindered = match step {
            Step::Keep => None,
            Step::Wait(why) => Some(why),
            Step::Write(_) => known.failed.get(region),
        };
        let secret = known
            .secrets
            .as_ref()
            .and_then(|secrets| secrets.get(&name))
            .filter(|secret| secret.ours);
        let Some(secret) = secret else {
            let missing = || {
                Obstacle::new(
                    "RemoteSecretMissing",
                    format!("Secret istio-system/{name} is being written"),
                )
            };
            return Err(hindered.cloned().unwrap_or_else(missing));
        };
        if secret.expires.is_none_or(|end| end <= self.now) {
            let why = hindered
                .map(|why| format!(": {}", why.message))
                .unwrap_or_default();
            let message = format!("the token in Secret istio-system/{name} is over{why}");
            return Err(Obstacle::new("RemoteTokenExpired", message));
        }
        self.synced(region, secret)?;
        match hindered {
            Some(why) if secret.late().is_none_or(|late| late <= self.now) => Err(why.clone()),
            // There is time.
            Some(why) => Ok(Some(format!(
                "the token for region {region} is to be renewed: {}",
                why.message
            ))),
            None => Ok(None),
        }
    }

    /// What istiod says about a secret that it has had time for. Where nobody has asked it, there is nothing to say.
    fn synced(&self, region: &ClusterName, secret: &SecretFacts) -> Result<(), Obstacle> {
        let deadline = secret
            .issued
            .and_then(|issued| issued.checked_add(SYNC_DEADLINE).ok());
        if deadline.is_none_or(|deadline| self.now < deadline) {
            return Ok(());
        }
        let said = self
            .replicas()
            .filter_map(|(_, replica)| replica.remotes.get(region))
            .max();
        match said {
            None | Some(Synced::Synced) => Ok(()),
            // Before 1.31 an istiod that may not read Secrets there says so for ever, and works.
            Some(Synced::Timeout) if !can_leave_out_secrets(self.member) => Ok(()),
            Some(other) => {
                let hint = match other {
                    Synced::Timeout if !self.leaves_out_secrets() => {
                        "; it may not read Secrets there and must not try: set PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER=false on it"
                    }
                    Synced::Timeout | Synced::Synced | Synced::Syncing | Synced::Absent => "",
                };
                let word = other.as_str();
                let message =
                    format!("istiod says {word} of region {region} (/debug/clusterz){hint}");
                Err(Obstacle::new("RemoteNotSynced", message))
            }
        }
    }

    fn leaves_out_secrets(&self) -> bool {
        let mut istiods = self.member.istio.iter().flat_map(|seen| &seen.istiods);
        istiods.all(|istiod| istiod.leaves_out_secrets)
    }
}

/// Whether istiod has the switch by which it reads no Secrets of regions.
fn can_leave_out_secrets(member: &MemberFacts) -> bool {
    takes(member) == crate::remote::Takeover::InPlace
}
