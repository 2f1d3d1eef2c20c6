use proptest::prelude::*;

use super::*;

fn allow(rules: &[&str]) -> EgressPolicy {
    let rules: Vec<String> = rules.iter().map(|&rule| rule.to_owned()).collect();
    EgressPolicy::default().changed(None, &rules).unwrap()
}

fn host(text: &str) -> HostName {
    HostName::from_wire(text).unwrap()
}

#[test]
fn names_are_compared_in_one_form() {
    let policy = allow(&["Example.COM.", "bücher.example", "*.wild.example", "db.example:5432"]);
    for good in
        ["example.com", "EXAMPLE.com.", "xn--bcher-kva.example", "a.wild.example", "a.b.WILD.example."]
    {
        assert!(policy.allows(&host(good), 443) && policy.allows(&host(good), 80), "{good}");
        assert!(!policy.allows(&host(good), 22), "{good}");
    }
    for bad in
        ["wild.example", "awild.example", "example.com.evil.example", "evilexample.com", "www.example.com"]
    {
        assert!(!policy.resolves(&host(bad)), "{bad}");
    }
    assert!(policy.allows(&host("db.example"), 5432) && !policy.allows(&host("db.example"), 443));
    assert_eq!(policy.redirected_ports(), [80, 443, 5432].into());
}

#[test]
fn what_is_no_name_is_none() {
    for bad in [
        "",
        ".",
        "a..b",
        "-a.example",
        "1.2.3.4",
        "0x7f.1",
        "a.0x7f",
        "::1",
        "a b",
        "a/b",
        "é.example",
        "a.127",
        &"a".repeat(64),
    ] {
        assert_eq!(HostName::from_wire(bad), None, "{bad}");
    }
    assert_eq!(HostName::from_host_header("a.example:8080"), Some((host("a.example"), Some(8080))));
    for bad in ["a.example:", "a.example:x", "[::1]:80", "a.example:99999", "1.2.3.4:80", "a@b.example"] {
        assert_eq!(HostName::from_host_header(bad), None, "{bad}");
    }
}

#[test]
fn a_refused_rule_says_what_to_do() {
    for (bad, why) in [
        ("https://example.com/x", "page"),
        ("example", "no preset"),
        ("10.0.0.1", "without a port"),
        ("10.0.0.1/8:22", "10.0.0.0/8:22"),
        ("169.254.169.254:80", "metadata"),
        ("0.0.0.0/0:443", "metadata"),
        ("[fd00::1]:443", "IPv6"),
        ("fd00::/8:443", "IPv6"),
        ("*.com", "top-level"),
        ("*", "no preset"),
        ("a*.example.com", "star"),
        ("example.com:0", "port"),
        ("example.com:+80", "port"),
        ("example.com:", "port"),
        ("1.2.3:80", "CIDR"),
        ("exa mple.com", "not the name"),
        ("a.example/24", "neither"),
    ] {
        let error = bad.parse::<Rule>().unwrap_err();
        let text = format!("{} {}", error.one_line(), error.get_hint().unwrap());
        assert!(text.contains(why), "{bad}: {text}");
    }
}

#[test]
fn a_list_is_changed_as_asked_or_not_at_all() {
    let policy = allow(&["anthropic", "example.com", "*.example.org", "10.1.0.0/16:5432"]);
    assert_eq!(policy.to_string(), "allow: anthropic, example.com, *.example.org, 10.1.0.0/16:5432");
    let rules = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    assert_eq!(policy.clone().with(&rules(&["example.com"])).unwrap(), policy);
    assert_eq!(policy.clone().without(&rules(&["EXAMPLE.com"])).unwrap().allow.len(), 3);
    let error = policy.clone().without(&rules(&["a.example.org"])).unwrap_err().one_line();
    assert!(error.contains("part of another rule"), "{error}");
    assert!(policy.clone().without(&rules(&["nobody.example"])).is_err());
    assert!(policy.changed(Some(EgressMode::Open), &rules(&["a.example"])).is_err());
    let open = policy.changed(Some(EgressMode::Open), &[]).unwrap();
    assert!(open.networks().is_empty() && !open.resolves(&host("example.com")), "the list rests");
    assert_eq!(open.changed(Some(EgressMode::Allow), &[]).unwrap(), policy, "and is still there");
}

#[test]
fn presets_are_patterns_and_private_addresses_are_learnt_by_the_list_only() {
    for preset in Preset::ALL {
        let policy = allow(&[preset.as_str()]);
        for pattern in preset.hosts() {
            assert!(policy.allows(&host(&pattern.replace('*', "x")), 443), "{pattern}");
        }
    }
    let policy = allow(&["10.1.0.0/16:5432"]);
    assert!(policy.may_learn([10, 1, 2, 3].into()) && !policy.may_learn([10, 2, 0, 1].into()));
    assert!(policy.may_learn([1, 1, 1, 1].into()) && !policy.may_learn([169, 254, 169, 254].into()));
}

fn rule() -> impl Strategy<Value = String> {
    let name = "[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]([a-z0-9-]{0,8}[a-z0-9])?){1,3}";
    prop_oneof![
        name.prop_map(|name| name),
        (name, 1..=65535u16).prop_map(|(name, port)| format!("*.{name}:{port}")),
        (11..100u8, any::<u8>(), 16..=32u8, 1..=65535u16).prop_map(|(a, b, length, port)| {
            let net = Ipv4Net::new([a, b, 0, 0].into(), length).unwrap().trunc();
            format!("{net}:{port}")
        }),
        (0..Preset::ALL.len()).prop_map(|index| Preset::ALL[index].to_string()),
    ]
}

proptest! {
    #[test]
    fn parse_of_render_is_identity(rules in prop::collection::vec(rule(), 0..12)) {
        let policy = EgressPolicy::default().changed(Some(EgressMode::Allow), &[]).unwrap().with(&rules).unwrap();
        let again = EgressPolicy::parse(Some("allow"), Some(&policy.render_allow())).unwrap();
        prop_assert_eq!(&again, &policy);
        let json = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(serde_json::from_str::<EgressPolicy>(&json).unwrap(), policy);
    }

    #[test]
    fn no_text_breaks_the_parser_and_no_name_escapes_its_parent(text in "\\PC{0,40}", name in "[a-zA-Z0-9.*_-]{1,40}") {
        let _ = text.parse::<Rule>();
        let _ = HostName::from_host_header(&text);
        let policy = allow(&["*.example.com"]);
        if let Some(host) = HostName::from_wire(&name) {
            prop_assert_eq!(policy.resolves(&host), host.as_str().ends_with(".example.com"));
        }
    }
}

/// Found by `tests/parsers.rs`: these were taken, and the record that they were written into could not be read again.
#[test]
fn a_name_of_one_label_stays_refused_with_a_dot_behind_it() {
    for rule in ["localhost.", "github.", "\u{11c40}.", "a.\u{ad}"] {
        let error = EgressPolicy::default().changed(Some(EgressMode::Allow), &[rule.to_owned()]).unwrap_err();
        assert_eq!(error.get_kind(), crate::error::Kind::Refused, "{rule}");
    }
    let policy = EgressPolicy::parse(Some("allow"), Some("Example.com.,localhost.:8080")).unwrap();
    assert_eq!(policy.render_allow(), "example.com,localhost:8080");
    assert_eq!(EgressPolicy::parse(Some("allow"), Some(&policy.render_allow())).unwrap(), policy);
}
