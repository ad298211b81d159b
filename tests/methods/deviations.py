"""What third-party implementations compute that the contract forbids; test_adapters.py shows each at work."""

COUPLED = "the pseudo-inverse starts from a maximum over the whole batch (spec D5)"
SEGMENTS = "landmarks are segments of the padded input: more padding, other landmarks"
LEAK = "the stabiliser of the keys is a maximum over all of them, which eps lets through"
BLOCKS = "the last block, global, is that of the padded input; random blocks depend on its length"
ROUNDS = "the number of buckets and the seams of the rounds follow the padded length"
NO_BUCKET = "padding is hashed like any token, and moves the chunks of others"

#: method (or method-causal) -> test of the contract -> why it fails.
DEVIATIONS: dict[str, dict[str, str]] = {
    "hf_bigbird": {"test_padding_content_amount_and_batching_do_not_matter": BLOCKS},
    "hf_reformer": {"test_padding_content_amount_and_batching_do_not_matter": ROUNDS},
    "hf_nystromformer": {
        "test_each_query_head_of_a_group_sees_the_group_s_keys": COUPLED,
        "test_a_batch_row_does_not_depend_on_its_neighbours": COUPLED,
        "test_c7_what_is_not_a_number_stays_in_its_batch_row": COUPLED,
        "test_c7_what_is_not_finite_stays_in_its_head": COUPLED,
    },
    "lucidrains_nystromformer": {
        "test_each_query_head_of_a_group_sees_the_group_s_keys": COUPLED,
        "test_c7_what_is_not_a_number_stays_in_its_batch_row": COUPLED,
        "test_c7_what_is_not_finite_stays_in_its_head": COUPLED,
        "test_a_batch_row_does_not_depend_on_its_neighbours": COUPLED,
        "test_padding_content_amount_and_batching_do_not_matter": SEGMENTS,
    },
    "lucidrains_reformer": {
        "test_padding_content_amount_and_batching_do_not_matter": NO_BUCKET,
        "test_padding_does_not_reach_real_tokens": NO_BUCKET,
    },
    "lucidrains_performer": {
        "test_no_gradient_and_no_value_from_the_future": LEAK,
        "test_gradcheck": "eps makes the stabiliser a constant of the gradient, which finite differences see",
    },
    "lucidrains_performer-causal": {
        "test_half_precision_is_as_good_as_the_plain_formula_in_it": "it sums over all tokens in half precision",
    },
}

#: What float32 is good for where it is less than usual: the logit of a token alone is -1e5 (-5e4), beside which
#: the logarithms that weigh the rounds of hashing are rounded to 0.008 (0.004).
FLOAT32 = {"hf_reformer": 1e-2, "lucidrains_reformer": 5e-3}
