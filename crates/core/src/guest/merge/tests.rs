use proptest::prelude::*;
use serde_json::json;

use super::*;

fn setting(value: Option<Value>, will: Will) -> Setting {
    Setting { pointer: "/a/b".to_owned(), value, will }
}

/// What was asked for last time.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// There was no last time.
    Never,
    /// This key was not answered for.
    NotThis,
    /// This, or nothing.
    Asked(Option<i64>),
}

/// Merges one key. `now` and `wanted`: what is there and what is asked for.
fn one(will: Will, before: Before, now: Option<i64>, wanted: Option<i64>) -> (Option<i64>, bool) {
    let current = now.map_or(json!({}), |now| json!({"a": {"b": now}}));
    let base: Option<Base> = match before {
        Before::Never => None,
        Before::NotThis => Some(Base::new()),
        Before::Asked(value) => Some([("/a/b".to_owned(), value.map(|value| json!(value)))].into()),
    };
    let merged = merge(&current, base.as_ref(), &[setting(wanted.map(|wanted| json!(wanted)), will)]);
    (get(&merged.config, "/a/b").and_then(Value::as_i64), !merged.kept.is_empty())
}

#[test]
fn the_table() {
    let asked = |value| Before::Asked(Some(value));
    let cases = [
        // will, asked last time, there now, asked now, result, kept
        (Will::Choose, Before::Never, None, Some(1), Some(1), false),
        (Will::Choose, Before::Never, Some(9), Some(1), Some(1), false),
        (Will::Choose, Before::Never, Some(9), None, None, false),
        (Will::Choose, asked(1), Some(1), Some(2), Some(2), false),
        (Will::Choose, asked(1), Some(9), Some(1), Some(9), true),
        (Will::Choose, asked(1), None, Some(1), None, true),
        (Will::Choose, asked(1), Some(9), Some(2), Some(2), false),
        (Will::Choose, asked(1), Some(9), None, None, false),
        (Will::Choose, asked(1), Some(2), Some(2), Some(2), false),
        (Will::Choose, Before::Asked(None), Some(9), None, Some(9), true),
        (Will::Choose, Before::Asked(None), Some(9), Some(1), Some(1), false),
        (Will::Choose, Before::NotThis, Some(9), Some(1), Some(9), true),
        (Will::Choose, Before::NotThis, None, Some(1), Some(1), false),
        (Will::Suggest, Before::Never, Some(9), Some(1), Some(9), true),
        (Will::Suggest, Before::Never, None, Some(1), Some(1), false),
        (Will::Suggest, asked(1), Some(1), Some(2), Some(2), false),
        (Will::Suggest, asked(1), Some(9), Some(1), Some(9), true),
        (Will::Insist, asked(1), Some(9), Some(1), Some(1), false),
        (Will::Insist, Before::Asked(None), Some(9), None, None, false),
    ];
    for case in cases {
        let (will, before, now, wanted, result, kept) = case;
        assert_eq!(one(will, before, now, wanted), (result, kept), "{case:?}");
    }
}

#[test]
fn other_keys_and_their_order_stay() {
    let current = parse_config("{z: 1, // mine\n a: {x: [1, {b: 2}], b: 'old',}, m: null}").unwrap();
    let merged = merge(&current, None, &[setting(Some(json!("new")), Will::Choose)]);
    assert_eq!(merged.config.to_string(), r#"{"z":1,"a":{"x":[1,{"b":2}],"b":"new"},"m":null}"#);
    assert!(merged.changed);
}

#[test]
fn a_short_form_gives_way_only_to_a_changed_request() {
    // agents.defaults.model may be a plain string instead of an object.
    let current = json!({"a": "short"});
    let before: Base = [("/a/b".to_owned(), Some(json!(1)))].into();
    let same = merge(&current, Some(&before), &[setting(Some(json!(1)), Will::Choose)]);
    assert_eq!((same.config, same.kept.len()), (current.clone(), 1));
    let other = merge(&current, Some(&before), &[setting(Some(json!(2)), Will::Choose)]);
    assert_eq!(other.config, json!({"a": {"b": 2}}));
}

#[test]
fn removal_takes_empty_objects_along_and_nothing_else() {
    let mut config = json!({"a": {"b": {"c": 1}}, "d": {"e": {}}});
    remove(&mut config, "/a/b/c");
    assert_eq!(config, json!({"d": {"e": {}}}));
    remove(&mut config, "/d/x/y");
    assert_eq!(config, json!({"d": {"e": {}}}));
}

#[test]
fn pointers_may_hold_slashes() {
    let mut config = json!({});
    let pointer = format!("/m/{}", super::super::settings::escaped("a/~b"));
    set(&mut config, &pointer, json!(1));
    assert_eq!(config, json!({"m": {"a/~b": 1}}));
    assert_eq!(get(&config, &pointer), Some(&json!(1)));
}

#[test]
fn what_is_not_an_object_is_not_a_configuration() {
    for bad in ["", "[]", "1", "{a:", "{a:1}}"] {
        assert!(parse_config(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_text_is_json_and_reads_back() {
    let config = json!({"a": "\"\u{1F980}\n$", "n": 9_007_199_254_740_991_i64});
    assert_eq!(parse_config(&render_config(&config)).unwrap(), config);
}

fn value() -> impl Strategy<Value = Option<Value>> {
    prop::option::of((0..3_i64).prop_map(|n| json!(n)))
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![(0..3_i64).prop_map(|n| json!(n)), Just(json!("s")), Just(json!([1, 2]))];
    let object = leaf.prop_recursive(3, 24, 4, |inner| {
        prop::collection::btree_map("[a-d]", inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    object.prop_map(|value| if value.is_object() { value } else { json!({"a": value}) })
}

fn settings() -> impl Strategy<Value = Vec<Setting>> {
    // Distinct leaves: no setting of ours lies inside another.
    prop::collection::btree_map("/[a-d]/[e-h]", value(), 0..6).prop_map(|map| {
        map.into_iter().map(|(pointer, value)| Setting { pointer, value, will: Will::Choose }).collect()
    })
}

proptest! {
    #[test]
    fn a_second_time_changes_nothing(current in tree(), first in settings()) {
        let merged = merge(&current, None, &first);
        let again = merge(&merged.config, Some(&base(&first)), &first);
        prop_assert!(!again.changed);
        prop_assert!(again.kept.is_empty());
    }

    #[test]
    fn what_a_request_changes_is_there_afterwards(current in tree(), first in settings(), second in settings()) {
        let before = base(&first);
        let merged = merge(&current, Some(&before), &second);
        for setting in &second {
            let asked_before = before.get(&setting.pointer);
            if asked_before.is_some_and(|before| *before != setting.value) {
                prop_assert_eq!(get(&merged.config, &setting.pointer), setting.value.as_ref());
            }
        }
    }

    #[test]
    fn a_hand_edit_survives_an_unchanged_request(current in tree(), settings in settings()) {
        let merged = merge(&current, Some(&base(&settings)), &settings);
        prop_assert!(!merged.changed);
    }
}
