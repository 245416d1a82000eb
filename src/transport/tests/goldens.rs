//! Golden files of the greetings and the frames: every kind, lane, role and code.

use bytes::{BufMut as _, BytesMut};

use super::{
    super::{
        frame::{Frame, Kind},
        handshake::{Head, Rejection, VERSIONS, conclude, hello, receive, welcome},
    },
    *,
};
use crate::golden;

fn identity(role: Role) -> Identity {
    Identity {
        cluster: Some(ClusterId::from_bits(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
        node: (role == Role::Member).then(|| NodeId::from_bits(0x1112_1314_1516_1718)),
        role,
        agent: AgentName::new("agent-a").unwrap(),
    }
}

#[test]
fn every_hello_is_sent_as_ever() {
    let mut goldens = Vec::new();
    for role in Role::ALL {
        for lane in Lane::ALL {
            let who = match role {
                Role::Member => "member",
                Role::Client => "client",
                Role::Reader => "reader",
            };
            let which = match lane {
                Lane::Control => "control",
                Lane::Request => "request",
                Lane::Bulk => "bulk",
            };
            let name = format!("transport/hello_{who}_{which}");
            let golden = golden::check_bytes(&name, &hello(&identity(role), lane));
            let (head, body) = Head::split(&golden).unwrap();
            let (caller, version) = receive(&identity(Role::Member), &head, body, "there").unwrap();
            let Identity { cluster, node, role, agent } = identity(role);
            let rights = if role == Role::Reader { role } else { Role::Member };
            assert_eq!(
                caller,
                Caller { cluster, node, role, rights, agent, lane, remote: "there".to_owned() }
            );
            assert_eq!(version, *VERSIONS.end());
            goldens.push(golden);
        }
    }
    golden::hostile(&goldens, |bytes| {
        if let Ok((head, body)) = Head::split(bytes) {
            let _ = receive(&identity(Role::Member), &head, body, "there");
        }
    });
}

#[test]
fn every_answer_to_a_hello_is_sent_as_ever() {
    let us = identity(Role::Member);
    let welcomed = golden::check_bytes("transport/welcome", &welcome(&us, *VERSIONS.end()));
    let (head, body) = Head::split(&welcomed).unwrap();
    let host = conclude(&us, &head, body).unwrap();
    assert_eq!(
        (host.cluster, host.node, host.agent, host.version),
        (us.cluster, us.node, us.agent, *VERSIONS.end())
    );

    let codes = [
        RejectCode::Version,
        RejectCode::Cluster,
        RejectCode::Caller,
        RejectCode::TooManyConnections,
        RejectCode::Malformed,
        RejectCode::Overtaken,
        RejectCode::Security,
        RejectCode::Other(0x0102),
    ];
    let mut goldens = vec![welcomed];
    for code in codes {
        let name = match code {
            RejectCode::Version => "version",
            RejectCode::Cluster => "cluster",
            RejectCode::Caller => "caller",
            RejectCode::TooManyConnections => "too_many_connections",
            RejectCode::Malformed => "malformed",
            RejectCode::Overtaken => "overtaken",
            RejectCode::Security => "tls",
            RejectCode::Other(_) => "other",
        };
        let rejection = Rejection { code, text: "upgrade it".to_owned() };
        let golden = golden::check_bytes(&format!("transport/refuse_{name}"), &rejection.write());
        let (head, body) = Head::split(&golden).unwrap();
        let read = conclude(&identity(Role::Member), &head, body).unwrap_err();
        assert_eq!(read, NotSent::Rejected { code, text: rejection.text });
        goldens.push(golden);
    }
    golden::hostile(&goldens, |bytes| {
        if let Ok((head, body)) = Head::split(bytes) {
            let _ = conclude(&identity(Role::Member), &head, body);
        }
    });
}

#[test]
fn every_frame_is_sent_as_ever() {
    let call = 0x0102_0304_0506_0708;
    let text = || Bytes::from_static(b"payload");
    let all = [
        Frame::request(Method(17), call, Duration::from_millis(0x0a0b_0c0d), text()),
        Frame::plain(Kind::Response, call, text()),
        Frame::refusal(call, &Refusal::new(0x0102, "not so")),
        Frame::plain(Kind::Ping, call, Bytes::new()),
        Frame::plain(Kind::Pong, call, Bytes::new()),
        Frame::plain(Kind::Busy, call, Bytes::new()),
        Frame::plain(Kind::Failed, call, text()),
    ];
    let whole = |frame: &Frame| {
        let mut buffer = BytesMut::new();
        frame.put_head(&mut buffer);
        buffer.put_slice(&frame.payload);
        buffer
    };
    let mut goldens = Vec::new();
    for frame in all {
        let name = match frame.kind {
            Kind::Request => "request",
            Kind::Response => "response",
            Kind::Refusal => "refusal",
            Kind::Ping => "ping",
            Kind::Pong => "pong",
            Kind::Busy => "busy",
            Kind::Failed => "failed",
        };
        let golden = golden::check_bytes(&format!("transport/frame_{name}"), &whole(&frame));
        assert_eq!(Frame::take(&mut BytesMut::from(&golden[..])), Ok(Ok(frame)));
        goldens.push(golden);
    }
    golden::hostile(&goldens, |bytes| {
        let mut buffer = BytesMut::from(bytes);
        while let Ok(Ok(frame)) = Frame::take(&mut buffer) {
            assert_eq!(Frame::take(&mut whole(&frame)), Ok(Ok(frame.clone())));
            if frame.kind == Kind::Refusal {
                let _ = Frame::read_refusal(frame.payload);
            }
        }
    });
}
