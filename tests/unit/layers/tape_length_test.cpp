#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "autograd/tape.h"
#include "layers/model.h"
#include "tests/support/mixer_laws.h"

using namespace ls;

TEST_SUITE("unit") {
  TEST_CASE("one node a scan: the tape of a model is as long for few tokens as for many") {
    for (const std::string& mixer : test::right_mixers()) {
      CAPTURE(mixer);
      const test::MixerCase c = test::mixer_case(mixer, "{width: 128, layers: [" + mixer + "]}");
      layers::Model model(c.config, {.vocab_in = 11, .classes = 11}, 1);
      std::vector<Index> sizes;
      for (const Index tokens : {3, 70}) {
        ag::Tape tape;
        layers::SeqContext seq(2, tokens, {});
        const Tensor ids = Tensor::zeros({2, tokens}, DType::kI64);
        model.loss(model.hidden({ids, {}}, seq), ids);
        sizes.push_back(tape.size());
      }
      CHECK(sizes[0] > 0);
      CHECK(sizes[0] == sizes[1]);
    }
  }
}
