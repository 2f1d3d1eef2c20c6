//! Many commands at once, on real files and locks with fakes of everything below: nothing collides, nothing is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeSet;

use fireclaw::{fleet, store::Found};
use fireclaw_core::error::{Error, Kind, Result};
use world::{run_destroy, run_setup, world};

#[test]
fn thirty_two_setups_at_once_get_thirty_two_distinct_sets() {
    let world = world();
    let app = &world.app;
    std::thread::scope(|scope| {
        let setups: Vec<_> =
            (0..32).map(|n| scope.spawn(move || run_setup(app, &format!("bot-{n}")))).collect();
        for setup in setups {
            setup.join().unwrap().unwrap();
        }
    });
    let records = app.store().records().unwrap();
    assert_eq!(records.len(), 32);
    let distinct = |values: Vec<String>| values.into_iter().collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(records.iter().map(|record| record.vm_ip.to_string()).collect()), 32);
    assert_eq!(distinct(records.iter().map(|record| record.host_port.to_string()).collect()), 32);
    assert_eq!(distinct(records.iter().map(|record| record.vm_tap.to_string()).collect()), 32);
    assert_eq!(distinct(records.iter().map(|record| record.vm_mac.to_string()).collect()), 32);
    assert!(records.iter().all(|record| record.provisioned));
    assert_eq!(fleet::rows(app).unwrap().len(), 32);
    std::thread::scope(|scope| {
        for n in 0..32 {
            scope.spawn(move || run_destroy(app, &format!("bot-{n}")).unwrap());
        }
    });
    assert!(app.store().all().unwrap().is_empty());
    assert!(world.network.is_clean(), "{:?}", world.network.state());
}

#[test]
fn two_setups_of_one_id_at_once_make_one() {
    let world = world();
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let setups: Vec<_> = (0..2).map(|_| scope.spawn(|| run_setup(&world.app, "bot"))).collect();
        setups.into_iter().map(|setup| setup.join().unwrap()).collect()
    });
    let failed: Vec<Kind> =
        results.iter().filter_map(|result| result.as_ref().err().map(Error::get_kind)).collect();
    // The other one came while the first worked, or after it was done.
    assert!(matches!(failed.as_slice(), [Kind::Held | Kind::Refused]), "{failed:?}");
    assert!(matches!(world.app.store().all().unwrap().as_slice(), [Found::Instance(_)]));
}

#[test]
fn a_failure_below_the_engine_leaves_nothing() {
    for method in ["ensure_bridge", "install_firewall"] {
        let world = world();
        world.network.fail_on(method);
        run_setup(&world.app, "bot").unwrap_err();
        world.network.heal();
        // What could not be undone while the network failed is removed by the next run.
        let _ = run_destroy(&world.app, "bot");
        assert!(world.app.store().all().unwrap().is_empty(), "{method}");
        assert!(world.network.is_clean(), "{method}: {:?}", world.network.state());
    }
}
