"""Score titles against references: ROUGE-1, ROUGE-2, ROUGE-L and BLEU, by characters or of English words.

`--test_file test.tsv` generates the titles first; `--predictions titles.jsonl --references test.tsv` scores those of a
file. The last line of the output is JSON.
"""

import argparse
import csv
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..config import GenerationConfig, require
from ..data.examples import Example, read_examples
from ..data.predictions import read_predictions
from ..decoding.options import PROMPT_OPTIONS, DataConfig
from ..decoding.rerank import RerankConfig
from ..engines.options import LoadConfig
from ..errors import DataError, OptionError
from ..files import atomic_text, check_apart, check_target, to_json
from ..locations import DATA_DIR, choose_model_dir
from ..metrics import LANGUAGES, average, corpus_bleu, describe, score_each
from ..metrics.options import ScoringConfig

TEST_FILE = DATA_DIR / "test.tsv"


def main(argv: Sequence[str] | None = None) -> int:
    """Generate or read the titles, score them and print the scores."""
    parser = cli.make_parser("Score titles against references. The last line of the output is JSON.")
    parser.add_argument("--test_file", default=TEST_FILE, help="pairs to generate titles for and score")
    parser.add_argument("--predictions", help="score the titles of this .jsonl or .txt file, and generate none")
    parser.add_argument("--references", help="the pairs that --predictions was made from, in the same order")
    parser.add_argument("--show", type=int, default=0, help="print so many references, each with the title to score")
    parser.add_argument("--output_csv", help="also write every example with its scores to this file")
    cli.add_flags(parser, ScoringConfig, LoadConfig)
    names = [field.name for field in dataclasses.fields(DataConfig) if field.name != "max_target_length"]
    cli.add_flags(parser, DataConfig, only=names)
    cli.add_flags(parser, GenerationConfig, of_model=True)
    cli.add_flags(parser, RerankConfig)
    flags = parser.parse_args(argv)
    data, load = cli.config_from(flags, DataConfig), cli.config_from(flags, LoadConfig)
    language = cli.config_from(flags, ScoringConfig).language
    cli.require_stdout()
    require(flags.show >= 0, "show must be at least 0", flags.show)
    if (flags.predictions is None) != (flags.references is None):
        raise OptionError("--predictions and --references go together: give both, or --test_file alone")
    if flags.predictions is not None:
        _check_only_scoring(flags, data)
    if flags.output_csv is not None:
        check_target(flags.output_csv)
    inputs = {name: getattr(flags, name) for name in ("test_file", "predictions", "references")}
    check_apart("output_csv", flags.output_csv, **inputs)

    if flags.predictions is None:
        model_dir = choose_model_dir(load.model_dir)
        check_apart("output_csv", flags.output_csv, **load.files(model_dir))
        generation = GenerationConfig.of_model(model_dir, **cli.given(flags, GenerationConfig))
        reranking = cli.config_from(flags, RerankConfig)
        reranking.check(generation)
    pairs_file = flags.test_file if flags.references is None else flags.references
    columns = (data.text_column, data.summary_column, data.skip_bad_lines)
    examples = list(read_examples(pairs_file, *columns, keep_duplicates=True))
    references = [example.title for example in examples]
    if flags.predictions is None:
        from ..title import AutoTitle, rerank_answers  # late, since scoring alone needs none of it

        title = AutoTitle.load(*load.arguments(model_dir))
        contents = [example.content for example in examples]
        answers = rerank_answers(title.iterate(contents, generation, data, progress=True), reranking, generation)
        predictions = [answer.titles[0].text for answer in answers]
    else:
        predictions = read_predictions(flags.predictions)
        if len(predictions) != len(references):
            raise DataError(
                f"{flags.predictions} has titles for {len(predictions)} texts, {pairs_file} {len(references)} pairs to "
                "score: predict that very file"
            )

    scores = score_each(predictions, references, language)
    if flags.output_csv is not None:
        write_csv(flags.output_csv, examples, predictions, scores)
    for reference, prediction in zip(references[: flags.show], predictions, strict=False):
        print(f"reference: {reference}\n    title: {prediction}")
    texts = LANGUAGES[language]
    ours, theirs = (statistics.fmean(map(texts.count, each)) for each in (predictions, references))
    print(f"{len(scores)} examples, mean length {ours:.1f} {texts.unit}, of the references {theirs:.1f}")
    print("corpus BLEU {:.2f} ({})".format(*corpus_bleu(predictions, references, language)))
    print("means of", describe(language))
    print(to_json(average(scores)))
    return 0


def _check_only_scoring(flags: argparse.Namespace, data: DataConfig) -> None:
    """Raise OptionError for a flag that would have no effect beside --predictions: titles are written already."""
    if data.skip_bad_lines:
        raise OptionError("--skip_bad_lines cannot know which --predictions to skip: correct the lines of --references")
    default, read = DataConfig(), ("max_source_length", "long_text", *PROMPT_OPTIONS)
    given = [
        *(["test_file"] if flags.test_file != TEST_FILE else []),
        *(field.name for field in dataclasses.fields(LoadConfig) if getattr(flags, field.name) != field.default),
        *(name for name in read if getattr(data, name) != getattr(default, name)),
        *cli.given(flags, GenerationConfig),
        *(["rerank"] if flags.rerank != RerankConfig.rerank else []),
    ]
    if given:
        raise OptionError(
            f"--{' and --'.join(given)} would change no title of --predictions: give that to test.py, which wrote them"
        )


def write_csv(
    path: str | Path, examples: Sequence[Example], predictions: Sequence[str], scores: Sequence[dict[str, float]]
) -> None:
    """Write a row an example: content, reference, prediction and a column for each score."""
    with atomic_text(path) as file:
        file.write("\ufeff")  # without a byte order mark Excel takes the file for the system's old code page
        writer = csv.writer(file)
        writer.writerow(["content", "reference", "prediction", *scores[0]])
        for example, prediction, each in zip(examples, predictions, scores, strict=True):
            # Half a surrogate pair, which JSON can spell in a prediction and UTF-8 cannot, becomes a question mark.
            text = prediction.encode(errors="replace").decode()
            writer.writerow([example.content, example.title, text, *each.values()])
