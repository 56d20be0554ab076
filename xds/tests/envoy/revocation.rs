//! Revocation lists: the intermediates are the anchors, so each list is one of an anchor, about leaves.

use mesh_xds::gateway::Leaf;

use crate::backend::Echo;
use crate::lab::{HOST, Pair, eventually, identity};

async fn passes(pair: &Pair) -> bool {
    pair.child.ask(HOST, "/vm/insert/x").await.status == 200
}

/// Tells the region about a list, on new connections.
async fn tell(pair: &mut Pair, list: String) {
    pair.region.secrets.lists.insert("c1".to_owned(), list);
    for serve in &mut pair.region.spec.serve {
        serve.epoch += 1;
    }
    pair.region.apply().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_on_the_list_of_its_intermediate_is_refused_and_others_pass() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let (chain, key) = pair.child_ca.pem_for(&identity("c1"));
    let serial = mesh_ca::facts(&chain).unwrap()[0].serial.clone();
    pair.child.secrets.default = Some(Leaf::new(&chain, &key));
    pair.child.apply().await;
    let empty = pair.child_ca.list(&[]);
    tell(&mut pair, empty).await;
    eventually("an empty list let everybody pass", async || {
        passes(&pair).await
    })
    .await;

    let list = pair.child_ca.list(&["77", &serial]);
    tell(&mut pair, list.clone()).await;
    eventually("the revoked leaf was refused", async || {
        let answer = pair.child.ask(HOST, "/vm/insert/x").await;
        answer.header("x-kof-flags") == "UC"
    })
    .await;

    pair.child.secrets.default = Some(pair.child_ca.leaf());
    pair.child.apply().await;
    eventually("another leaf of the same CA passed", async || {
        passes(&pair).await
    })
    .await;

    // A list of somebody else alone: nobody of this CA passes. So lists are given for all anchors or for none.
    let foreign = pair.region_ca.list(&[]);
    tell(&mut pair, foreign).await;
    eventually("a CA without a list was refused", async || {
        pair.child
            .ask(HOST, "/vm/insert/x")
            .await
            .header("x-kof-flags")
            == "UC"
    })
    .await;
}
