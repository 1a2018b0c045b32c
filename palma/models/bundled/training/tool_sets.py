"""The tools that conversations are drawn with: one for the weather, most often, and others."""

import random

from palma.models.bundled.training.tool_text import Parameter, ToolSpec

PLACE_NAMES = ("location", "city", "place", "town", "city_name", "query")
_PLACE_NAMES_DRAWN = ("location",) * 9 + ("city",) * 6 + PLACE_NAMES
_UNITS = ("celsius|fahrenheit",) * 12 + ("fahrenheit|celsius", "C|F")
_UNIT_NAMES = ("unit",) * 12 + ("units", "scale", "format")
_NAMES = ("get_current_weather",) * 16 + ("get_weather",) * 14 + (
    "weather", "current_weather", "fetch_weather", "lookup_weather", "check_weather", "getWeather",
    "get_forecast", "get_weather_forecast", "get_temperature", "get_current_temperature",
)  # fmt: skip

_DESCRIPTIONS = """
Get the current weather in a given location
Get the current weather in a given location.
Get the current weather for a location.
Get the current weather
Get the weather
Get the weather in a city.
Get weather at the given location
Get the current temperature in a given location.
Get current temperature for a given location.
Get the current temperature for a specific location
Gets the weather for a city.
Fetch the current weather of a place.
Returns the current weather of a city.
Returns the weather conditions at a place.
Returns the weather
Look up the weather in a place.
Look up the forecast for a city.
Find out how the weather is somewhere.
Tells how warm it is in a city, and if it rains.
Tells the weather.
The weather in a city.
The weather forecast for a place.
Current weather conditions.
Retrieve the current weather for a given city.
Use this tool to get the weather in a location.
Call this to find the weather of any city.
Determine weather in my location
A weather service: give a city.
Weather
Useful when the user asks about the weather.
""".strip().splitlines()

_OTHERS = """
get_time | Get the current time in a city. | city
get_current_time | Get the current time in a given location | location
get_stock_price | Get the current price of a stock. | ticker
get_news | Get the news of today. | topic?
get_population | Returns the population of a place. | place
get_exchange_rate | Get the exchange rate of two currencies. | base, target
search | Search the web. | query
web_search | Search the web for a query | query, max_results?:integer
search_flights | Find flights between two cities. | origin, destination, date?
book_hotel | Book a hotel in a city. | city, nights:integer
find_restaurant | Find a restaurant in a place. | location, cuisine?
send_email | Send an email to someone. | to, subject, body
send_message | Send a message. | recipient, text
calculate | Calculate the value of an expression. | expression
calculator | Add, subtract, multiply or divide two numbers. | a:number, b:number, operation
add | Add two numbers. | a:integer, b:integer
multiply | Multiply two numbers | a:number, b:number
translate | Translate a text into another language. | text, language
play_music | Play a song. | song, artist?
set_alarm | Set an alarm. | time
set_timer | Set a timer for some minutes. | minutes:integer
create_event | Put an event into the calendar. | title, date, time?
get_calendar | Returns the events of a day. | date
read_file | Read a file. | path
write_file | Write a text to a file. | path, content
run_code | Run a program and return what it prints. | code, language?
execute_sql | Run a query on the database. | query
turn_on_light | Turn on a light in a room. | room
open_door | Open the door. |
roll_dice | Roll dice. | sides?:integer
get_joke | Tell a joke. |
get_recipe | Find a recipe for a dish. | dish
get_user | Returns a user of the shop. | user_id:integer
get_order | Returns an order. | order_id
get_distance | Returns how far one place is from another. | origin, destination
get_directions | Get directions from one place to another. | origin, destination, mode?
get_movie | Find a film. | title
get_team_score | Get the score of a team. | team
wikipedia | Look up a page. | title
draw_picture | Draw a picture. | prompt
""".strip().splitlines()


def drawn_tools(rng: random.Random) -> tuple[ToolSpec, ...]:
    """Return a set of tools, with one for the weather most often, in any order."""
    num_others = rng.choices((0, 1, 2, 3), (58, 26, 12, 4))[0]
    tools = [_other_tool(line) for line in rng.sample(_OTHERS, num_others)]
    if rng.random() < 0.85 or not tools:
        tools.append(weather_tool(rng))
    rng.shuffle(tools)
    return tuple(tools)


def weather_tool(rng: random.Random) -> ToolSpec:
    """Return a tool for the weather as some client may describe it."""
    place = Parameter(rng.choice(_PLACE_NAMES_DRAWN), is_required=rng.random() < 0.85)
    parameters = [place]
    if rng.random() < 0.5:
        unit = Parameter(rng.choice(_UNIT_NAMES), rng.choice(_UNITS), rng.random() < 0.15)
        parameters.insert(rng.random() < 0.9, unit)
    return ToolSpec(rng.choice(_NAMES), rng.choice(_DESCRIPTIONS), tuple(parameters))


def weather_tool_of(tools: tuple[ToolSpec, ...]) -> ToolSpec | None:
    """Return the tool that tells the weather, if there is one among these."""
    return next((tool for tool in tools if tool.description in _DESCRIPTIONS), None)


def place_parameter(tool: ToolSpec) -> Parameter:
    """Return the parameter of a weather tool that takes the place."""
    return next(each for each in tool.parameters if each.name in PLACE_NAMES)


def unit_parameter(tool: ToolSpec) -> Parameter | None:
    """Return the parameter of a weather tool that takes the unit, if it has one."""
    return next((each for each in tool.parameters if "|" in each.kind), None)


def _other_tool(line: str) -> ToolSpec:
    name, description, parameters = (field.strip() for field in line.split("|"))
    return ToolSpec(name, description, tuple(map(_parameter, _listed(parameters))))


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _parameter(text: str) -> Parameter:
    name, _, kind = text.partition(":")
    return Parameter(name.removesuffix("?"), kind or "string", not name.endswith("?"))
