//! The handshake: both sides say who they are before anything else. Pure.
//!
//! The caller sends a hello, the other side answers welcome or refuse. All numbers little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | [`MAGIC`] |
//! | 1 | 1 hello, 2 welcome, 3 refuse |
//! | 2, 2 | smallest and largest protocol version: those that the sender speaks; in a welcome twice the chosen one |
//! | 4 | length of the body, at most [`HANDSHAKE_BYTES_MAX`] with this head |
//! | body | hello and welcome: fields, each a `u16` tag, a `u16` length and the value; refuse: a `u16` code and text |
//!
//! This form is outside of the versions and stays as it is for good, so that any two programs can at least refuse each
//! other by name. For that reason it isn't the crate's codec, whose versions come and go. It grows by fields: a tag
//! that the reader doesn't know is skipped. Who can't do without a field being understood raises its smallest version.
//!
//! Of the versions that both speak the largest is used. A stranger (a browser, a port scan, a TLS client) is recognised
//! by its first eight bytes.

use std::ops::RangeInclusive;

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::{
    Caller, Identity, Lane, Role,
    error::{NotSent, RejectCode, differing, tame},
};
use crate::{
    id::{ClusterId, NodeId},
    limits::HANDSHAKE_BYTES_MAX,
    name::AgentName,
};

/// The protocol versions that this program speaks.
pub(super) const VERSIONS: RangeInclusive<u16> = 3..=3;
/// How every greeting begins.
pub(super) const MAGIC: [u8; 8] = *b"leasehld";
/// The bytes before the body.
pub(super) const HEAD_BYTES: usize = 17;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSE: u8 = 3;

const TAG_CLUSTER: u16 = 1;
const TAG_NODE: u16 = 2;
const TAG_ROLE: u16 = 3;
const TAG_AGENT: u16 = 4;
const TAG_LANE: u16 = 5;

/// What comes before the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    kind: u8,
    pub(super) versions: RangeInclusive<u16>,
    /// The length of the body.
    pub(super) body_bytes: usize,
}

/// Bytes that are no greeting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(super) String);

impl Head {
    /// Reads the head.
    pub(super) fn read(bytes: &[u8; HEAD_BYTES]) -> Result<Self, Malformed> {
        let mut rest = &bytes[..];
        let mut magic = [0; MAGIC.len()];
        rest.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(Malformed("the first bytes are not those of a leasehold agent".to_owned()));
        }
        let kind = rest.get_u8();
        let (least, most) = (rest.get_u16_le(), rest.get_u16_le());
        let body_bytes = usize::try_from(rest.get_u32_le()).unwrap_or(usize::MAX);
        if body_bytes > HANDSHAKE_BYTES_MAX - HEAD_BYTES {
            return Err(Malformed(format!(
                "a greeting of {body_bytes} bytes, the largest has {HANDSHAKE_BYTES_MAX}"
            )));
        }
        Ok(Self { kind, versions: least..=most, body_bytes })
    }

    /// A whole greeting's head and body.
    pub(super) fn split(greeting: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let Some((head, body)) = greeting.split_first_chunk() else {
            return Err(Malformed("a greeting is cut short".to_owned()));
        };
        Ok((Self::read(head)?, body))
    }

    fn with_body(kind: u8, versions: &RangeInclusive<u16>, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.put_slice(&MAGIC);
        bytes.put_u8(kind);
        bytes.put_u16_le(*versions.start());
        bytes.put_u16_le(*versions.end());
        // The longest body, a refusal with its bounded text, is far below the bound.
        bytes.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
        bytes.put_slice(body);
        bytes
    }
}

/// The largest version that both speak.
fn common(ours: &RangeInclusive<u16>, theirs: &RangeInclusive<u16>) -> Option<u16> {
    let version = *ours.end().min(theirs.end());
    (ours.contains(&version) && theirs.contains(&version)).then_some(version)
}

/// The fields of a hello and a welcome.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fields {
    cluster: Option<ClusterId>,
    node: Option<NodeId>,
    role: Option<Role>,
    agent: Option<AgentName>,
    lane: Option<Lane>,
}

impl Fields {
    fn write(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut put = |tag: u16, value: &[u8]| {
            body.put_u16_le(tag);
            // The longest value is an agent's name, whose length is bounded.
            body.put_u16_le(u16::try_from(value.len()).unwrap_or(u16::MAX));
            body.put_slice(value);
        };
        if let Some(cluster) = self.cluster {
            put(TAG_CLUSTER, &cluster.to_bits().to_le_bytes());
        }
        if let Some(node) = self.node {
            put(TAG_NODE, &node.to_bits().to_le_bytes());
        }
        if let Some(role) = self.role {
            let number = match role {
                Role::Member => 0,
                Role::Client => 1,
                Role::Reader => 2,
            };
            put(TAG_ROLE, &[number]);
        }
        if let Some(agent) = &self.agent {
            put(TAG_AGENT, agent.as_str().as_bytes());
        }
        if let Some(lane) = self.lane {
            put(TAG_LANE, &[lane.number()]);
        }
        body
    }

    fn read(mut body: &[u8]) -> Result<Self, Malformed> {
        fn exact<const N: usize>(what: &str, value: &[u8]) -> Result<[u8; N], Malformed> {
            value
                .try_into()
                .map_err(|_| Malformed(format!("{what} has {} bytes instead of {N}", value.len())))
        }
        fn once<T>(what: &str, field: &mut Option<T>, value: T) -> Result<(), Malformed> {
            match field.replace(value) {
                None => Ok(()),
                Some(_) => Err(Malformed(format!("{what} is there twice"))),
            }
        }
        let mut fields = Self::default();
        while !body.is_empty() {
            if body.len() < 4 {
                return Err(Malformed("a field is cut short".to_owned()));
            }
            let (tag, length) = (body.get_u16_le(), usize::from(body.get_u16_le()));
            let Some((value, rest)) = body.split_at_checked(length) else {
                return Err(Malformed(format!("field {tag} is cut short")));
            };
            body = rest;
            match tag {
                TAG_CLUSTER => {
                    let id = ClusterId::from_bits(u128::from_le_bytes(exact("the cluster id", value)?));
                    once("the cluster id", &mut fields.cluster, id)?;
                }
                TAG_NODE => {
                    let id = NodeId::from_bits(u64::from_le_bytes(exact("the node id", value)?));
                    once("the node id", &mut fields.node, id)?;
                }
                TAG_ROLE => {
                    let role = match exact("the role", value)? {
                        [0] => Role::Member,
                        [1] => Role::Client,
                        [2] => Role::Reader,
                        [other] => return Err(Malformed(format!("role {other} is unknown"))),
                    };
                    once("the role", &mut fields.role, role)?;
                }
                TAG_AGENT => {
                    let text = std::str::from_utf8(value)
                        .map_err(|_| Malformed("the agent's name is not UTF-8".to_owned()))?;
                    let agent = AgentName::new(text).map_err(|e| Malformed(e.to_string()))?;
                    once("the agent's name", &mut fields.agent, agent)?;
                }
                TAG_LANE => {
                    let [number] = exact("the lane", value)?;
                    let Some(&lane) = Lane::ALL.get(usize::from(number)) else {
                        return Err(Malformed(format!("lane {number} is unknown")));
                    };
                    once("the lane", &mut fields.lane, lane)?;
                }
                // From a later program.
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// What the caller says.
pub(super) fn hello(ours: &Identity, lane: Lane) -> Vec<u8> {
    let fields = Fields {
        cluster: ours.cluster,
        node: ours.node,
        role: Some(ours.role),
        agent: Some(ours.agent.clone()),
        lane: Some(lane),
    };
    Head::with_body(HELLO, &VERSIONS, &fields.write())
}

/// What the other side answers when all is well.
pub(super) fn welcome(ours: &Identity, version: u16) -> Vec<u8> {
    let fields = Fields {
        cluster: ours.cluster,
        node: ours.node,
        agent: Some(ours.agent.clone()),
        ..Fields::default()
    };
    Head::with_body(WELCOME, &(version..=version), &fields.write())
}

/// Why a caller isn't welcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub(super) struct Rejection {
    pub(super) code: RejectCode,
    pub(super) text: String,
}

impl Rejection {
    /// As it is sent.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut body = BytesMut::new();
        body.put_u16_le(self.code.number());
        body.put_slice(tame(&self.text).as_bytes());
        Head::with_body(REFUSE, &VERSIONS, &body)
    }
}

/// Reads a hello and decides whether its sender is welcome: who it is, and the version to speak.
pub(super) fn receive(
    ours: &Identity,
    head: &Head,
    body: &[u8],
    remote: &str,
) -> Result<(Caller, u16), Rejection> {
    let reject = |code, text| Err(Rejection { code, text });
    let malformed = |Malformed(text)| Rejection { code: RejectCode::Malformed, text };
    if head.kind != HELLO {
        return reject(RejectCode::Malformed, format!("greeting {} where a hello was expected", head.kind));
    }
    // Before the fields, whose meaning may be another one there.
    let Some(version) = common(&VERSIONS, &head.versions) else {
        return reject(
            RejectCode::Version,
            format!(
                "this agent speaks the protocol versions {} to {}, the caller {} to {}; upgrade the older program",
                VERSIONS.start(),
                VERSIONS.end(),
                head.versions.start(),
                head.versions.end()
            ),
        );
    };
    let fields = Fields::read(body).map_err(malformed)?;
    let (Some(role), Some(agent), Some(lane)) = (fields.role, fields.agent, fields.lane) else {
        return reject(RejectCode::Malformed, "the role, the agent's name or the lane is missing".to_owned());
    };
    if role == Role::Member && fields.node.is_none() {
        return reject(RejectCode::Malformed, "a member without a node id".to_owned());
    }
    if let (Some(ours), Some(theirs)) = (ours.cluster, fields.cluster)
        && ours != theirs
    {
        let caller = format!("the caller ({agent})");
        let code = if theirs.is_before(ours) { RejectCode::Overtaken } else { RejectCode::Cluster };
        return reject(code, differing(("this agent", ours), (&caller, theirs)));
    }
    // As long as no certificate says less.
    let rights = if role == Role::Reader { role } else { Role::Member };
    let caller = Caller {
        cluster: fields.cluster,
        node: fields.node,
        role,
        rights,
        agent,
        lane,
        remote: remote.to_owned(),
    };
    Ok((caller, version))
}

/// The name of whoever sends this hello, as soon as all of it is there. For who stands between the two.
#[cfg(feature = "chaos")]
pub(crate) fn name_in(greeting: &[u8]) -> Result<Option<AgentName>, Malformed> {
    if greeting.len() < HEAD_BYTES {
        return Ok(None);
    }
    let (head, rest) = Head::split(greeting)?;
    let Some(body) = rest.get(..head.body_bytes) else { return Ok(None) };
    Ok(Fields::read(body)?.agent)
}

/// Whoever answered a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) cluster: Option<ClusterId>,
    pub(super) node: Option<NodeId>,
    /// Its name, for people.
    pub(super) agent: AgentName,
    /// The protocol version that both speak from now on.
    pub(super) version: u16,
}

/// Reads the answer to a hello.
pub(super) fn conclude(ours: &Identity, head: &Head, body: &[u8]) -> Result<Host, NotSent> {
    let failed = |Malformed(detail)| NotSent::Handshake { detail };
    match head.kind {
        WELCOME => {}
        REFUSE => {
            let mut body = body;
            let code = if body.len() >= 2 { body.get_u16_le() } else { 0 };
            let text = tame(&String::from_utf8_lossy(body));
            return Err(NotSent::Rejected { code: RejectCode::of(code), text });
        }
        other => return Err(failed(Malformed(format!("greeting {other} where a welcome was expected")))),
    }
    let version = *head.versions.end();
    if head.versions.start() != head.versions.end() || !VERSIONS.contains(&version) {
        return Err(failed(Malformed(format!("it chose protocol version {version}, which was not offered"))));
    }
    let fields = Fields::read(body).map_err(failed)?;
    let Some(agent) = fields.agent else {
        return Err(failed(Malformed("the agent's name is missing".to_owned())));
    };
    // It has checked this too; a rule on which the cluster's data hangs is checked on both sides.
    if let (Some(ours), Some(theirs)) = (ours.cluster, fields.cluster)
        && ours != theirs
    {
        return Err(NotSent::WrongCluster { ours, theirs });
    }
    Ok(Host { cluster: fields.cluster, node: fields.node, agent, version })
}

#[cfg(test)]
#[path = "tests/handshake.rs"]
mod tests;
