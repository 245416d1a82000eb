//! How connections are protected, and who may connect.

use std::net::IpAddr;

#[cfg(feature = "tls")]
use super::tls::Tls;
#[cfg(feature = "tls")]
use crate::runtime;
use crate::{
    config::ConfigFault,
    name::AgentName,
    role::{Allowed, Role},
};

/// Without TLS everybody is whoever he says that he is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    /// The certificates; `None`: plaintext.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    /// Which names may connect, and be connected to.
    pub(crate) allowed: Allowed,
    /// Danger: without certificates this side also connects to what is beyond this machine.
    pub(crate) plaintext_anywhere: bool,
}

impl Security {
    /// Whether connections are encrypted, and both sides known by their certificates.
    #[cfg(feature = "tls")]
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the own certificate, if there is one, is for a role that covers this one.
    #[cfg(feature = "tls")]
    pub(crate) fn covers(&self, role: Role) -> bool {
        let in_use = self.tls.as_ref().and_then(Tls::in_use);
        in_use.is_none_or(|in_use| in_use.role.covers(role))
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "with the feature `tls` it depends")]
    pub(crate) fn covers(&self, _role: Role) -> bool {
        true
    }

    /// What is wrong with the certificates, for this name in a role that covers this one.
    #[cfg(feature = "tls")]
    pub(crate) async fn faults(&self, needs: Role, name: &str) -> Vec<ConfigFault> {
        let Some(tls) = self.tls.clone() else { return Vec::new() };
        // What is wrong with the name is told elsewhere.
        let name = AgentName::new(name).ok();
        let read = runtime::spawn_blocking(move || tls.faults(needs, name.as_ref())).await;
        read.unwrap_or_default().into_iter().map(ConfigFault::Tls).collect()
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_async, reason = "with the feature `tls` there may be some")]
    pub(crate) async fn faults(&self, _needs: Role, _name: &str) -> Vec<ConfigFault> {
        Vec::new()
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unused_self, reason = "with the feature `tls` it depends")]
    pub(crate) fn is_tls(&self) -> bool {
        false
    }
}

impl Security {
    /// Whether what is sent to this host may be sent as it is, or is encrypted. The settings' addresses were looked at before;
    /// the others come from the membership, and a name may mean another host than it did.
    pub(crate) fn reaches(&self, host: IpAddr) -> bool {
        self.is_tls() || self.plaintext_anywhere || host.to_canonical().is_loopback()
    }
}

/// Whose certificate the other end of a connection has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) role: Role,
    pub(crate) name: AgentName,
}

impl Bearer {
    /// Whether it is who it says that it is, and may be here.
    pub(crate) fn vouches_for(
        &self,
        role: Role,
        name: &AgentName,
        security: &Security,
    ) -> Result<(), String> {
        if self.name != *name || !self.role.covers(role) {
            return Err(format!(
                "it says that it is the {role} {name}, and its certificate is that of the {} {}; give it a certificate of its own, `leasehold certs issue`",
                self.role, self.name
            ));
        }
        if !security.allowed.admits(self.role, &self.name) {
            return Err(format!(
                "the {} {} is not among the names that are allowed; add it (allow(…), --allow-{}) if it should be",
                self.role, self.name, self.role
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_certificates_nothing_goes_beyond_this_machine_unless_it_is_said() {
        let [here, mapped, there, all] =
            ["127.3.2.1", "::ffff:127.0.0.1", "10.0.0.9", "0.0.0.0"].map(|host| host.parse().unwrap());
        let security = Security::default();
        assert!(security.reaches(here) && security.reaches(mapped));
        assert!(!security.reaches(there) && !security.reaches(all));
        assert!(Security { plaintext_anywhere: true, ..Security::default() }.reaches(there));
    }
}
