"""measure.py: alternating measurements, their ratios and intervals."""
import random
import statistics


def per_round(rounds, *measures):
    """Lists of one measurement per round; the order changes, so that each is about as often first, between and last."""
    n = len(measures)
    results = [[] for _ in measures]
    for number in range(rounds):
        order = [(number + i) % n for i in range(n)]
        if number // n % 2:
            order.reverse()
        for index in order:
            results[index].append(measures[index]())
    return results


def ratios(ours, peers):
    return [a / b for a, b in zip(ours, peers)]


def interval(values, rounds=4000):
    """95 % bootstrap interval of the median, from a fixed seed."""
    source = random.Random(1)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(rounds))
    return medians[int(rounds * 0.025)], medians[int(rounds * 0.975)]
