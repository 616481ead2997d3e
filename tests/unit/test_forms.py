"""Forms that are in buckets already restore, whatever a later version writes."""

import base64
import zlib

import pytest

from lenticular.byte_ranges import InMemory
from lenticular.splice import restored_sha256

#: Forms as this node wrote them before recipes had group lengths, compressed, each with the SHA-256
#: of its original. They are frozen: nobody writes such forms any more.
_BEFORE_GROUP_LENGTHS = {
    "implicit, with group lengths, as JPEG Lossless": (
        "63018bd9fb3df914128ab9b2f533488f77e1646226968e438d1dff9dcf97f291",
        (
            "eNrtU1Fv0lAUPu0W0+hk3YyLJoshjQ81knJbWlqWLBEYHV2hZSswRoxaoMC2DhhssmnM/G/6I9TEhB/hs3gK"
            "ZMapWXwyMZ6b5vtuz3fvOefecwH+rm0Y6TyNWMrNwxcKgAYK7FSAaBSNWDJWQRQkQZOJIBJCNEERREHGTxRU"
            "QULFHGqWpxopLqBKUAKJSAOLnpUrq4OZLKiEhmX0RkASJFTLclyWEzFVkRWiSJqqaAlJFeOqpsqqIhFRU4mi"
            "KTTcAScbglzGKhrpUi6585yIuBNQf74TTQV1Yrnwmut79f2ex62JEa7tuQ1ujfOsvr5PMubQT+Z37ELlpHTQ"
            "8FrbW07p3G2YfnmgJ8uiGU90D+uk3Ege2Btp7aw2TD3ejEqVyuD43N1sDotWdS9pVmL1g3wv7WRrrd1863gz"
            "U8w4qXb33K1WnJJl1nrlVCLrHg5ztbIjD20z1rSiWtR3lH5G3ya+c1KunlpHZ8fVtj4gsn+mnua6W/Viu7pr"
            "ZPyYobyKJ6MdL1G3o81a3DD3KkexerMzXF/nItzLPrfWOfX9CNfz3Y77feY2GvudFhbKvQFmdv89RAZWrr1x"
            "Bu795sYZeAFphwa7yMCTJWcb4CHu+XUMo1XER7M4C1POliyAeeSHXu+EnfkeILI4CtZN0Lv9o8Ezc+INQ86e"
            "h4KihMMzpYAYhtuYSehKJmEI4V/2p/z42co+Ih90thN0O485pJ0FyNuWnc7u2PmMFOaxRgO9AWMnOh7H0iXD"
            "fnOC7uaBumT0hC0im5uwIEaB3XBugEyeyoSMLqbRmfsAowt28srGaMHpMLPXuEJNTyuEOP4wHgG7pRs6Bgn6"
            "NPj3Dm4FsXiKWoLxe7g7cf1gi+NPwFAT9ds5+Eds/PH/qfz6VD6PAvYNqUXiQQ=="
        ),
    ),
    "big endian, with group lengths, as JPEG-LS": (
        "e004cec5bd43f5a1977f5046805515f6cccd0aff6a63c540489891d56fd6b5fb",
        (
            "eNrNU91P01AUP7cspEHAgoZoQkzT+DAT0rVduxZe3Oi+Wddt3SAsRt33BmNsY2OAMcQXH/370MRkj/4BJvpE"
            "PXdUHjDG+KT39ub3uz2/c+459wPg37ZoyrQYxFLGB18JAAME7G2K2AiDWEqtgywqoqFKoixJkiFqoiyqOGRR"
            "FxVUzKFm9UajhERUiRqVyAxwaFm7401nqmhIDKyidQMUUUG1qoZUdTOoa6omaYqha8amossh3dBVXVMk2dAl"
            "zdAYeABOchkysWwxZZYykcIrScZIQP4+EkNonVguvBGGjVqn3xC25A2h3ajUhS2hkR3GO1JsZ3IYsQr1XGFU"
            "asuhQuwwncg5/dh41DreGxxbesUO9k1LP7iI9NRU5jx5GglMgmfBhNpPmGXtNGKnjw5a9UHHyprd/bOWNCn3"
            "8u2ymT7fTTilRKwaTVr7J71cdahF9Gh+IO2k5YNEORAsDrv10aiZrObHF+1OL98J1LRSN+rog2azPI5aQasW"
            "jFUHztjcrU5sc7Nld5WmKptHgaYcL24Hap3zSFTYEE6HWIu9h6zfrfQqOOuNu12cVer1Tq+FRuEtsN75nyGy"
            "sPbHE2fh0W9OnIXXYDoM2EUWwitOHuApxrx2YbqO+Mxbh7vhXCkL4EN+2OiPOM/2BJHDnssuQPx4eHTycmdm"
            "5SFj+yCnaTzvKUVEHpYwk+U7mfCwjH+5X/Lze55DRD+92Q697X7MwXQWwbKztpks2FZM4f1YYwqtlHEznR/7"
            "yi3D++bQ2+0HcsuYGbuPbG7G6Bo5LurMgyq9UCVpenmz+uJjgOklN3tlLja6O6z3Gj94u/Ue0b1yvwDv5FLx"
            "OH2NZBYQxwI3j5xs0IEK6kpQ+w3u0Sz8hKyA+x2WiOviAzPJQwi7n4Al1B/CVwTCHOtjyM/G+FiOD7/zwMdF"
            "8IPn7iXt1+7H/y6bz1Pq+QMBnwWW"
        ),
    ),
    "deflated": (
        "021be74feac80ec054ada539e6ba09186534e144175c5ce4c3f62218c01cc429",
        (
            "eNpjYBhY4OLp7MsEpEN9WBi+MDIwMDEwMvg7gWggYGQC0qGeMgyGekZ6FiYGeoYGBgYWeqZ6hnomQGyoZ65n"
            "BFTBDFQjBFFjZKYHVKVnClJiyMQgAJQRQ9MN4hnqWVoyMQgBZXUYjPSMgKpNTMxMTCyNzU1NTA1MjSzMTS0s"
            "jcwNzcwtzE3MTY0MDC3MDUwtTJkYhBmCPfgYfFz9QjydQ30cg+INDA2AbmUk3SQmRpA/gd5lqFYqSk3OLEhV"
            "sjLUUcpITUxRslJK9StyyzRw9S7PcfQN8vMvSzT1KDTI9PMMdvcJLnAtLUnPDy/M90gq8QgxyvBONbNIdwzI"
            "cE2N9Cv3sKwy9ynxCY40d/HwM/dyzIhIdsnwrQoLzfXXD4yMdAr19cqNTHd2Cco2zLJ0CzIoyMwJNbZISQxx"
            "LClxzctwLC4pNszSLzJL9Us2TMkpCQxzCQ4LNww1MjVKci/IdQ03D8k09sg0KU3PqfB3y4lMDwq1qEovjgwp"
            "SckzNjF20S8zySxI108OqHR0VtJRKitSssorzcnRUSrIScxLRPASU1Iy89KBHlWqZXh77qDXYQcR1guzI0w6"
            "rq3sXvQgaVrh5xmcnWWaR7pcZ3cee+B2pFdb0PXu79V/J73ybtH7wv+kiKO4snjmdJbkLZuZK06mTLL+eG5n"
            "p8gj1evnT29M8diwfO7d+X5lKrcmLVr9g4VfY7bEQ7WDJ1fsbDJrfCou5nbe+cAWUYMLf778+JWYEBA+26K6"
            "srpu//4X6mLTExt2aaw5ui1P8t+tJMMrK39utnbtCTN39/j6d9PNQzYhC232833OTAv++3zmvbKTX/aG9IZx"
            "Bk7vWZYx9ZHd24yo18ImV59tiXR/967oudh8todhx38fYBNEgIv2n3kByMP5/A=="
        ),
    ),
}


@pytest.mark.parametrize("name", _BEFORE_GROUP_LENGTHS)
def test_a_form_of_before_recipes_had_group_lengths_restores_to_its_original(name: str) -> None:
    sha256, compressed = _BEFORE_GROUP_LENGTHS[name]
    form = InMemory(zlib.decompress(base64.b64decode(compressed)))
    assert restored_sha256(form) == sha256
