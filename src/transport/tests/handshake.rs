use proptest::prelude::*;

use super::*;

fn identity() -> Identity {
    Identity {
        cluster: Some(ClusterId::from_bits(0x0a)),
        node: Some(NodeId::from_bits(0x0b)),
        role: Role::Member,
        agent: AgentName::new("a").unwrap(),
    }
}

fn split(bytes: &[u8]) -> (Head, &[u8]) {
    let (head, body) = Head::split(bytes).unwrap();
    assert_eq!(head.body_bytes, body.len());
    (head, body)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes() {
    let fields = "0100 1000 0a000000000000000000000000000000 0200 0800 0b00000000000000";
    let golden = |text: &str| text.replace(' ', "");
    assert_eq!(
        hex(&hello(&identity(), Lane::Bulk)),
        golden(&format!(
            "6c65617365686c64 01 0300 0300 2f000000 {fields} 0300 0100 00 0400 0100 61 0500 0100 02"
        ))
    );
    assert_eq!(
        hex(&welcome(&identity(), 3)),
        golden(&format!("6c65617365686c64 02 0300 0300 25000000 {fields} 0400 0100 61"))
    );
    let rejection = Rejection { code: RejectCode::Cluster, text: "no".to_owned() };
    assert_eq!(hex(&rejection.write()), golden("6c65617365686c64 03 0300 0300 04000000 0200 6e6f"));
}

#[test]
fn both_learn_who_the_other_is() {
    let bytes = hello(&identity(), Lane::Request);
    let (head, body) = split(&bytes);
    let (caller, version) = receive(&identity(), &head, body, "there").unwrap();
    assert_eq!((caller.node, caller.lane, caller.role), (identity().node, Lane::Request, Role::Member));
    assert_eq!((caller.agent.as_str(), caller.remote.as_str()), ("a", "there"));
    let bytes = welcome(&identity(), version);
    let (head, body) = split(&bytes);
    let host = conclude(&identity(), &head, body).unwrap();
    assert_eq!(
        (host.node, host.cluster, host.version),
        (identity().node, identity().cluster, *VERSIONS.end())
    );
}

#[test]
fn a_later_program_is_refused_by_name_whatever_its_fields_mean() {
    let bytes = Head::with_body(HELLO, &(7..=9), &[0xff; 5]);
    let (head, body) = split(&bytes);
    let rejection = receive(&identity(), &head, body, "").unwrap_err();
    assert_eq!(rejection.code, RejectCode::Version);
    assert!(rejection.text.contains("3 to 3") && rejection.text.contains("7 to 9"), "{rejection}");
    let bytes = Rejection { code: RejectCode::Other(77), text: "too\nold".to_owned() }.write();
    let (head, body) = split(&bytes);
    let error = conclude(&identity(), &head, body).unwrap_err();
    assert_eq!(error, NotSent::Rejected { code: RejectCode::Other(77), text: "too old".to_owned() });
}

#[test]
fn the_largest_common_version_is_chosen() {
    assert_eq!(common(&(1..=3), &(2..=5)), Some(3));
    assert_eq!(common(&(2..=5), &(1..=3)), Some(3));
    assert_eq!(common(&(1..=1), &(2..=5)), None);
    assert_eq!(common(&(2..=5), &(1..=1)), None);
    #[expect(clippy::reversed_empty_ranges, reason = "what a hostile peer may send")]
    let reversed = 5..=1;
    assert_eq!(common(&(1..=3), &reversed), None);
}

#[test]
fn another_cluster_is_refused_on_both_sides_and_both_are_named() {
    let theirs = Identity { cluster: Some(ClusterId::from_bits(0xdead)), ..identity() };
    let bytes = hello(&theirs, Lane::Control);
    let (head, body) = split(&bytes);
    let rejection = receive(&identity(), &head, body, "").unwrap_err();
    assert_eq!(rejection.code, RejectCode::Cluster);
    for id in [0xdead, 0x0a] {
        assert!(rejection.text.contains(&ClusterId::from_bits(id).to_string()), "{rejection}");
    }
    let bytes = welcome(&theirs, *VERSIONS.end());
    let (head, body) = split(&bytes);
    let error = conclude(&identity(), &head, body).unwrap_err();
    assert!(matches!(error, NotSent::WrongCluster { .. }), "{error}");
    // Before the founding nobody has a cluster, and everybody is welcome.
    let nobody = Identity { cluster: None, ..identity() };
    assert!(conclude(&nobody, &head, body).is_ok());
    let bytes = hello(&nobody, Lane::Control);
    let (head, body) = split(&bytes);
    assert!(receive(&identity(), &head, body, "").is_ok());
}

/// Two copies of one directory, each recovered: two clusters.
#[test]
fn two_recoveries_of_one_cluster_are_strangers() {
    let founded = ClusterId::of_founding(0x0a);
    let [one, two] = [1, 2].map(|drawn| Identity { cluster: founded.next_generation(drawn), ..identity() });
    let bytes = hello(&one, Lane::Control);
    let (head, body) = split(&bytes);
    let rejection = receive(&two, &head, body, "").unwrap_err();
    assert_eq!(rejection.code, RejectCode::Cluster);
    let (one, two) = (one.cluster.unwrap(), two.cluster.unwrap());
    assert!(one.has_founding_of(two) && one.generation() == 1 && two.generation() == 1);
    assert!(!one.is_before(two) && !two.is_before(one));
    assert!(founded.is_before(one) && one.is_before(two.next_generation(1).unwrap()));
}

#[test]
fn another_generation_is_refused_on_both_sides_and_the_older_one_is_named() {
    let founded = ClusterId::of_founding(0x0a);
    let old = Identity { cluster: Some(founded), agent: AgentName::new("old").unwrap(), ..identity() };
    let new = Identity { cluster: founded.next_generation(7), ..identity() };
    let told = |caller: &Identity, called: &Identity| {
        let bytes = hello(caller, Lane::Control);
        let (head, body) = split(&bytes);
        let rejection = receive(called, &head, body, "").unwrap_err();
        // As the caller reads it, and as it would have judged itself.
        let bytes = rejection.write();
        let (head, body) = split(&bytes);
        let read = conclude(caller, &head, body).unwrap_err();
        let bytes = welcome(called, *VERSIONS.end());
        let (head, body) = split(&bytes);
        let own = conclude(caller, &head, body).unwrap_err();
        let is_over = caller.cluster < called.cluster;
        assert_eq!((read.is_overtaken(), own.is_overtaken()), (is_over, is_over), "{read}; {own}");
        for text in [read.to_string(), own.to_string()] {
            for said in ["generation 0", "generation 1", "move its data directory away", "00010000"] {
                assert!(text.contains(said), "{said}: {text}");
            }
        }
        [read.to_string(), own.to_string()]
    };
    let [read, own] = told(&old, &new);
    assert!(read.contains("the caller (old) is of generation 0"), "{read}");
    assert!(own.contains("this agent is of generation 0"), "{own}");
    let [read, own] = told(&new, &old);
    assert!(read.contains("this agent is of generation 0"), "{read}");
    assert!(own.contains("the agent there is of generation 0"), "{own}");
}

#[test]
fn fields_grow_and_are_checked() {
    let known = Fields { role: Some(Role::Client), ..Fields::default() };
    let mut body = known.write();
    body.extend([0x99, 0x99, 3, 0, 1, 2, 3]);
    assert_eq!(Fields::read(&body), Ok(known.clone()), "a field from a later program is skipped");
    body.extend(known.write());
    assert!(Fields::read(&body).unwrap_err().0.contains("twice"));
    assert!(Fields::read(&[1, 0, 2, 0, 1, 2]).unwrap_err().0.contains("2 bytes instead of 16"));
    assert!(Fields::read(&[4, 0, 1, 0, b'\n']).unwrap_err().0.contains("control"));
    assert!(Fields::read(&[4, 0, 9, 0, b'a']).unwrap_err().0.contains("cut short"));
    assert!(Fields::read(&[5, 0, 1, 0, 3]).unwrap_err().0.contains("lane 3"));
}

#[test]
fn a_member_has_a_node_id() {
    let bytes = hello(&Identity { node: None, ..identity() }, Lane::Control);
    let (head, body) = split(&bytes);
    assert_eq!(receive(&identity(), &head, body, "").unwrap_err().code, RejectCode::Malformed);
    let bytes = hello(&Identity { node: None, role: Role::Client, ..identity() }, Lane::Control);
    let (head, body) = split(&bytes);
    assert!(receive(&identity(), &head, body, "").is_ok());
}

#[test]
fn a_version_that_was_not_offered_is_not_accepted() {
    for versions in [1..=1, 2..=2, 4..=4, 1..=3] {
        let bytes = Head::with_body(WELCOME, &versions, &[4, 0, 1, 0, b'a']);
        let (head, body) = split(&bytes);
        assert!(matches!(conclude(&identity(), &head, body), Err(NotSent::Handshake { .. })));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..5) {
        let _ = Fields::read(&bytes);
        let whole = Head::with_body(kind, &VERSIONS, &bytes);
        let (head, body) = split(&whole);
        let _ = receive(&identity(), &head, body, "");
        let _ = conclude(&identity(), &head, body);
        if let Some((head, _)) = bytes.split_first_chunk() {
            prop_assert!(Head::read(head).is_err());
        }
        // The right magic, the rest arbitrary: the body is bounded.
        if bytes.len() >= HEAD_BYTES {
            let mut lie = [0; HEAD_BYTES];
            lie.copy_from_slice(&bytes[..HEAD_BYTES]);
            lie[..MAGIC.len()].copy_from_slice(&MAGIC);
            if let Ok(head) = Head::read(&lie) {
                prop_assert!(HEAD_BYTES + head.body_bytes <= HANDSHAKE_BYTES_MAX);
            }
        }
    }
}
