"""Well-known cities that are no capitals of the tables: places to ask the weather of."""

CITIES = (
    "San Francisco", "New York", "New York City", "Los Angeles", "San Diego", "San Jose",
    "Chicago", "Seattle", "Portland", "Las Vegas", "Philadelphia", "Houston", "Dallas", "Miami",
    "Orlando", "New Orleans", "Detroit", "Toronto", "Montreal", "Vancouver", "Rio de Janeiro",
    "São Paulo", "Manchester", "Liverpool", "Birmingham", "Glasgow", "Oxford", "Lyon", "Nice",
    "Marseille", "Munich", "Hamburg", "Cologne", "Frankfurt", "Stuttgart", "Leipzig", "Zurich",
    "Geneva", "Basel", "Salzburg", "Milan", "Turin", "Venice", "Florence", "Naples", "Barcelona",
    "Seville", "Valencia", "Porto", "Rotterdam", "Antwerp", "Istanbul", "Tel Aviv", "Dubai",
    "Karachi", "Mumbai", "Bangalore", "Kolkata", "Hong Kong", "Shanghai", "Osaka", "Kyoto",
    "Melbourne", "Sydney", "Perth", "Auckland", "Casablanca", "Lagos", "Johannesburg", "Cape Town",
)  # fmt: skip
