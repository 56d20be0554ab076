//! What is told about remote secrets.

use super::View;
use crate::{
    facts::Obstacle,
    istio::Plane,
    names::ClusterName,
    plan::{refusal, takes},
    remote::{SYNC_DEADLINE, Said, SecretFacts, Step, Synced, Takeover, secret_name},
};

impl View<'_> {
    /// What is to be known about the remote secrets of this member besides, or the first thing that is the matter with one.
    pub(super) fn remotes(&self) -> Result<Vec<String>, Obstacle> {
        let mut notes = Vec::new();
        for (region, pair) in self.pairs {
            let at = (region, self.regions);
            if let Some(why) = refusal(self.facts, self.seat, self.member, at) {
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
        let note = self.synced(region, secret)?;
        match hindered {
            Some(why) if secret.late().is_none_or(|late| late <= self.now) => Err(why.clone()),
            // There is time.
            Some(why) => Ok(Some(format!(
                "the token for region {region} is to be renewed: {}",
                why.message
            ))),
            None => Ok(note),
        }
    }

    /// What istiod says about a secret that it has had time for. Where nobody has asked it, there is nothing to say.
    fn synced(
        &self,
        region: &ClusterName,
        secret: &SecretFacts,
    ) -> Result<Option<String>, Obstacle> {
        let deadline = secret
            .issued
            .and_then(|issued| issued.checked_add(SYNC_DEADLINE).ok());
        if deadline.is_none_or(|deadline| self.now < deadline) {
            return Ok(None);
        }
        let said = self
            .replicas()
            .filter_map(|(_, replica)| replica.remotes.get(region))
            .max();
        let Some(Said { state, note }) = said else {
            return Ok(None);
        };
        let note = note.as_deref().unwrap_or("nobody knows why");
        match state {
            Synced::Synced => return Ok(None),
            // What it was told before it still knows.
            Synced::Unasked => {
                return Ok(Some(format!(
                    "istiod could not be asked about region {region}: {note}"
                )));
            }
            // Before 1.30 an istiod that may not read Secrets there says so for ever, and works.
            Synced::Timeout if self.times_out() => return Ok(None),
            Synced::Foreign => {
                let message = format!(
                    "istiod reads region {region} by Secret {note}, which is not ours, and ignores istio-system/{}: delete it",
                    secret_name(region)
                );
                return Err(Obstacle::new("RemoteSecretForeign", message));
            }
            Synced::Timeout | Synced::Syncing | Synced::Absent => {}
        }
        let message = format!(
            "istiod says {} of region {region}, to which Secret istio-system/{} leads (istio.io/debug clusterz)",
            state.as_str(),
            secret_name(region)
        );
        Err(Obstacle::new("RemoteNotSynced", message))
    }

    /// Whether it cannot but fail to read everything, and works all the same.
    fn times_out(&self) -> bool {
        !self.facts.istio.read_secrets && takes(self.member) == Takeover::Anew
    }
}
