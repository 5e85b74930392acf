"""Run a target over many images, with results that do not depend on batch size, threads and workers.

Libraries round sums depending on the batch size and the number of threads: on SqueezeNet, batches of 1 and 16 differ by
6e-4 at features.12. So the network always processes the same images together: *blocks*, defined by image index alone
and each computed by one thread, with several threads for several blocks. This is also faster than one pass with several
threads, since no layer waits for its slowest part and a block stays in the cache of its processor core.
"""

import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from milan.errors import BadInput, MilanWarning
from milan.targets.hooks import run_to_layers
from milan.targets.module_access import is_compiled
from milan.targets.preprocessing import Size, as_size, pixel_count
from milan.targets.sparse_activations import SparseActivations
from milan.targets.target import Target

T = TypeVar("T")
Batches = Iterable[tuple[Int[Tensor, " b"], Shaped[Tensor, "b channels h w"]]]
# With so many pixels the maps of a layer about fit in the cache of a processor core.
_BLOCK_PIXELS = 4 * 224 * 224
_MAX_BLOCK_LENGTH = 32


@dataclass(frozen=True)
class BlockOutputs:
    """Outputs of some layers for a block of images."""

    ids: Int[Tensor, " b"]
    images: Shaped[Tensor, "b channels h w"]
    maps: dict[str, Float[Tensor, "b units gh gw"]]
    # For layers with a class token.
    class_tokens: dict[str, Float[Tensor, "b units"]]
    # In place of the maps and class tokens of sparse layers, where these were asked for.
    sparse: dict[str, SparseActivations] = field(default_factory=dict)
    # In place of all of these, where ``map_blocks`` got ``reduce``: its results, one for each part of the block.
    reduced: dict[str, list[Any]] = field(default_factory=dict)


LayerReducer = Callable[[str, BlockOutputs], Any]


def block_length(size: Size, device: torch.device) -> int:
    """Return the number of images in a block, a power of two that depends only on image size and device type.

    >>> [block_length(size, torch.device("cpu")) for size in (32, 64, 224, 512, (224, 112))]
    [32, 32, 4, 1, 8]
    """
    if device.type != "cpu":
        return _MAX_BLOCK_LENGTH
    fitting = max(1, _BLOCK_PIXELS // pixel_count(size))
    return min(_MAX_BLOCK_LENGTH, 1 << (fitting.bit_length() - 1))


def split_into_blocks(
    batches: Batches, length: int
) -> Iterator[tuple[Int[Tensor, " b"], Shaped[Tensor, "b channels h w"]]]:
    """Split batches of any sizes into blocks of images whose indices lie between two multiples of ``length``."""
    ids: list[int] = []
    images: list[Tensor] = []
    for id, image in ((int(id), image) for batch in batches for id, image in zip(batch[0], batch[1], strict=True)):
        if ids and id // length != ids[-1] // length:
            yield torch.tensor(ids), torch.stack(images)
            ids, images = [], []
        ids.append(id)
        images.append(image)
    if ids:
        yield torch.tensor(ids), torch.stack(images)


def map_blocks(
    target: Target,
    layers: Sequence[str],
    batches: Batches,
    consume: Callable[[BlockOutputs], T],
    *,
    sparse: bool = False,
    reduce: LayerReducer | None = None,
) -> Iterator[T]:
    """Yield ``consume(outputs)`` for each block of the batches' images, in order.

    ``consume`` is called in several threads at once and in any order. ``batches`` is read in the caller's thread, so
    that images are decoded while others are computed. If memory runs out, a block is halved.

    Args:
        target: the network.
        layers: names of the layers.
        batches: ids and pixels of the images.
        consume: computes the result of a block.
        sparse: compute only the activations that are not 0 of sparse layers, instead of maps.
        reduce: called as ``reduce(layer, outputs)`` as soon as a layer has run, with the outputs of that layer alone,
            of which it must keep no view. Only its results are kept, so that the maps of all layers never exist at once
            and none is copied.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return
    length = block_length(as_size(first[1].shape[-2:]), target.device)
    with (
        exact(target.device),
        target.evaluation_mode(),
        _start_workers(target, layers, consume, sparse, reduce) as crew,
    ):
        waiting: deque[Future[T]] = deque()
        for ids, images in split_into_blocks(chain([first], batches), length):
            waiting.append(crew.submit(ids, images))
            while len(waiting) > 2 * crew.size:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _WorkerPool(Generic[T]):
    """Threads that each run a replica of the target; the replicas share their weights."""

    def __init__(
        self,
        targets: Sequence[Target],
        layers: Sequence[str],
        consume: Callable[[BlockOutputs], T],
        sparse: bool,
        reduce: LayerReducer | None,
    ):
        self.size, self.layers, self.consume, self.sparse = len(targets), layers, consume, sparse
        self.reduce = reduce
        self._tasks: SimpleQueue[tuple[Future[T], Tensor, Tensor] | None] = SimpleQueue()
        self._threads = [Thread(target=self._run_worker, args=(target,), daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def submit(self, ids: Int[Tensor, " b"], images: Shaped[Tensor, "b channels h w"]) -> Future[T]:
        future: Future[T] = Future()
        self._tasks.put((future, ids, images))
        return future

    def close(self) -> None:
        """Wait for the current block of each thread, and drop the others."""
        while not self._tasks.empty():
            self._tasks.get()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _run_worker(self, target: Target) -> None:
        # The setting applies to the current thread.
        torch.set_num_threads(1)
        try:
            runner = _BlockRunner(target, self.reduce)
            store_sparse = runner.store_sparse if self.sparse else None
            with run_to_layers(target, self.layers, runner.store, store_sparse) as look:
                self._process_tasks(lambda ids, images: self.consume(runner.run(look, ids, images)))
        # If the worker cannot start, each of its tasks fails.
        except BaseException as error:
            failed = error

            def refuse(ids: Tensor, images: Tensor) -> T:
                raise failed

            self._process_tasks(refuse)

    def _process_tasks(self, answer: Callable[[Tensor, Tensor], T]) -> None:
        while (task := self._tasks.get()) is not None:
            future, ids, images = task
            try:
                future.set_result(answer(ids, images))
            except BaseException as error:
                future.set_exception(error)


class _BlockRunner:
    """Runs a target on blocks and returns the outputs of its layers, which belong to the caller."""

    outputs: BlockOutputs

    def __init__(self, target: Target, reduce: LayerReducer | None):
        self.target, self.reduce = target, reduce

    def run(
        self, look: Callable[[Tensor], None], ids: Int[Tensor, " b"], images: Shaped[Tensor, "b channels h w"]
    ) -> BlockOutputs:
        try:
            return self._run_once(look, ids, images)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        if len(ids) == 1:
            raise BadInput(
                f"not enough memory to run {self.target.name} on one image; free some, or use smaller images"
            )
        text = (
            "not enough memory for a block of images: continued with half of it at a time; the last digits may differ"
        )
        warnings.warn(text, MilanWarning, stacklevel=2)
        if self.target.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(ids) // 2
        return _concatenate(self.run(look, ids[:half], images[:half]), self.run(look, ids[half:], images[half:]))

    def _run_once(
        self, look: Callable[[Tensor], None], ids: Int[Tensor, " b"], images: Shaped[Tensor, "b channels h w"]
    ) -> BlockOutputs:
        self.outputs = BlockOutputs(ids, images, {}, {})
        look(self.target.make_input(ids, images))
        return self.outputs

    def store(self, layer: str, maps: Tensor, cls: Tensor | None) -> None:
        """Store copies, since a later module may change the output in place, or what is computed of them at once."""
        classes = {} if cls is None else {layer: cls.detach()}
        if self.reduce is not None:
            self._store_reduced(layer, replace(self.outputs, maps={layer: maps.detach()}, class_tokens=classes))
            return
        self.outputs.maps[layer] = maps.detach().clone(memory_format=torch.contiguous_format).float()
        if cls is not None:
            self.outputs.class_tokens[layer] = cls.detach().clone(memory_format=torch.contiguous_format).float()

    def store_sparse(self, layer: str, activations: SparseActivations) -> None:
        """Store the activations of a sparse layer, or what is computed of them."""
        if self.reduce is not None:
            self._store_reduced(layer, replace(self.outputs, sparse={layer: activations}))
            return
        self.outputs.sparse[layer] = activations

    def _store_reduced(self, layer: str, seen: BlockOutputs) -> None:
        assert self.reduce is not None
        self.outputs.reduced[layer] = [self.reduce(layer, seen)]


@contextmanager
def _start_workers(
    target: Target,
    layers: Sequence[str],
    consume: Callable[[BlockOutputs], T],
    sparse: bool,
    reduce: LayerReducer | None,
) -> Iterator[_WorkerPool[T]]:
    threads = torch.get_num_threads()
    crew = _WorkerPool(_make_replicas(target, threads), layers, consume, sparse, reduce)
    if crew.size > 1:
        # The crew keeps all cores busy; further threads of the caller's would only wait for one, and spin meanwhile.
        torch.set_num_threads(1)
    try:
        yield crew
    finally:
        crew.close()
        torch.set_num_threads(threads)


def _make_replicas(target: Target, count: int) -> list[Target]:
    """Return the target and replicas of it that share its parameters and buffers."""
    if target.device.type != "cpu" or count == 1 or is_compiled(target.model):
        return [target]
    # Inferred once for all replicas.
    _ = target.dissectable_layers
    try:
        return [target, *(_make_replica(target) for _ in range(count - 1))]
    # A network's own __deepcopy__ raises anything.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"{target.name} cannot be copied ({reason}), so one thread is used instead of {count}",
            MilanWarning,
            stacklevel=2,
        )
        return [target]


def _make_replica(target: Target) -> Target:
    shared = {id(tensor): tensor for tensor in chain(target.model.parameters(), target.model.buffers())}
    other = copy.copy(target)
    other.model = copy.deepcopy(target.model, shared)
    return other


def _concatenate(one: BlockOutputs, other: BlockOutputs) -> BlockOutputs:
    return replace(
        one,
        ids=torch.cat([one.ids, other.ids]),
        images=torch.cat([one.images, other.images]),
        maps={layer: torch.cat([maps, other.maps[layer]]) for layer, maps in one.maps.items()},
        class_tokens={layer: torch.cat([cls, other.class_tokens[layer]]) for layer, cls in one.class_tokens.items()},
        sparse={layer: part.followed_by(other.sparse[layer], len(one.ids)) for layer, part in one.sparse.items()},
        reduced={layer: [*parts, *other.reduced[layer]] for layer, parts in one.reduced.items()},
    )


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def exact(device: torch.device) -> AbstractContextManager[None]:
    """Make a GPU use deterministic algorithms and no TF32 within the block."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
