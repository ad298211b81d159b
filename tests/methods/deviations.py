"""What third-party implementations compute that the contract forbids; test_adapters.py shows each at work."""

COUPLED = "the pseudo-inverse starts from a maximum over the whole batch (spec D5)"
SEGMENTS = "landmarks are segments of the padded input: more padding, other landmarks"
LEAK = "the stabiliser of the keys is a maximum over all of them, which eps lets through"
BLOCKS = "the last block, global, is that of the padded input; random blocks depend on its length"

#: method (or method-causal) -> test of the contract -> why it fails.
DEVIATIONS: dict[str, dict[str, str]] = {
    "hf_bigbird": {"test_padding_content_amount_and_batching_do_not_matter": BLOCKS},
    "hf_nystromformer": {"test_a_batch_row_does_not_depend_on_its_neighbours": COUPLED},
    "lucidrains_nystromformer": {
        "test_a_batch_row_does_not_depend_on_its_neighbours": COUPLED,
        "test_padding_content_amount_and_batching_do_not_matter": SEGMENTS,
    },
    "lucidrains_performer": {
        "test_no_gradient_and_no_value_from_the_future": LEAK,
        "test_gradcheck": "eps makes the stabiliser a constant of the gradient, which finite differences see",
    },
    "lucidrains_performer-causal": {
        "test_half_precision_is_as_good_as_the_plain_formula_in_it": "it sums over all tokens in half precision",
    },
}
